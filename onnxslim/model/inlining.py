"""Inlines local functions, so that passes see plain nodes only.

Names stay readable: a value ``h`` of a function ``Block`` becomes ``Block/h``, in the second call ``Block/h_2``.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedFunctionsPass

from onnxslim.diagnostic import Diagnostic
from onnxslim.errors import ModelUnreadable
from onnxslim.model.edit import names_in
from onnxslim.model.nesting import HOLDERS, every_graph, graphs_within, nodes_within, values_of
from onnxslim.model.schemas import find_schema

MOST_NODES = 200_000
"""Limit of the inlined nodes: nested calls grow exponentially, so a kilobyte may stand for billions of nodes."""

DIAGNOSTICS = "onnxslim.inlining"
"""Key of the metadata of a graph with the functions that were not inlined, and the reasons."""


def inline_functions(model: ir.Model) -> tuple[Diagnostic, ...]:
    """Inline all calls of local functions in place, in nested graphs as well, and remove unused functions.

    A function of another operator set is inlined if its ops have the same meaning in that of the model. Returned are
    the functions that were not inlined, with the reasons.

    Raises:
        ModelUnreadable: Functions are recursive, which ONNX forbids.
    """
    if not model.functions:
        return ()
    order = _callees_first(model)
    RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # not annotated there
    obstacles = _obstacles(model, [name for name in order if name in model.functions])
    if len(obstacles) < len(model.functions):
        _prepare(model)
        inliner = InlinePass(lambda function: function.identifier() not in obstacles)
        try:
            inliner(model.clone())  # a trial on a copy, since an error leaves the model half inlined
            inliner(model)
        except Exception as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            obstacles = {name: obstacles.get(name, reason) for name in model.functions}
    used = {node.domain for graph in every_graph(model) for node in graph} | {name[0] for name in model.functions}
    for domain in {name[0] for name in order} - used - {""}:
        model.opset_imports.pop(domain, None)
    return tuple(
        Diagnostic(
            "function-not-inlined",
            f"the local function {_readable(name)} stays a call, in which nothing is folded, fused or quantized: {why}",
            "" if "--" in why else "inline it where the model is exported, with onnx.inliner for instance",
        )
        for name, why in obstacles.items()
        if name in model.functions
    )


def _readable(name: ir.OperatorIdentifier) -> str:
    return "::".join(filter(None, name[:2])) + (f" ({name[2]})" if name[2] else "")


def _callees_first(model: ir.Model) -> list[ir.OperatorIdentifier]:
    calls = {
        name: {node.op_identifier() for node in nodes_within(function.graph)} & model.functions.keys()
        for name, function in model.functions.items()
    }
    try:
        return list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(map(_readable, error.args[1]))
        raise ModelUnreadable(
            f"local functions call each other in a circle: {circle}",
            where=model.graph.name,
            hint="ONNX knows no recursion: export the model without it",
        ) from error


def _obstacles(model: ir.Model, callees_first: Iterable[ir.OperatorIdentifier]) -> dict[ir.OperatorIdentifier, str]:
    """Return the functions that cannot be inlined, with the reasons."""
    obstacles: dict[ir.OperatorIdentifier, str] = {}
    nodes: dict[ir.OperatorIdentifier, int] = {}
    for name in callees_first:
        function = model.functions[name]
        inner = list(nodes_within(function.graph))
        nodes[name] = sum(nodes.get(node.op_identifier(), 1) for node in inner)
        why = _differing_op(model, function)
        if why is not None:
            obstacles[name] = why
        else:
            function.opset_imports.update(
                {domain: model.opset_imports[domain] for domain in function.opset_imports.keys() & model.opset_imports}
            )
    for graph in every_graph(model):
        for node in graph:
            called = model.functions.get(node.op_identifier())
            if called is None:
                continue
            if any(attribute.type in HOLDERS for attribute in node.attributes.values()):
                obstacles.setdefault(node.op_identifier(), "a graph is given to it as an attribute")
            if len(node.inputs) > len(called.inputs) or len(node.outputs) > len(called.outputs):
                obstacles.setdefault(node.op_identifier(), "a call has more inputs or outputs than it declares")
    total = sum(nodes.get(node.op_identifier(), 1) for node in nodes_within(model.graph))
    if total > MOST_NODES:
        why = f"with all functions inlined the graph had {total:,} nodes, more than {MOST_NODES:,}"
        obstacles = {name: obstacles.get(name, why) for name in model.functions}
    return obstacles


def _differing_op(model: ir.Model, function: ir.Function) -> str | None:
    """Return why the body of a function has another meaning in the operator sets of the model, or None."""
    for domain, version in function.opset_imports.items():
        own = model.opset_imports.get(domain, version)
        if own == version or any(name[0] == domain for name in model.functions):
            continue
        for node in nodes_within(function.graph):
            if node.domain == domain and not _is_equivalent(node, version, own):
                known = domain or "ai.onnx"
                return f"{node.op_type} is another op in {known} {version}, its own, than in {known} {own}, the model's"
    return None


def _is_equivalent(node: ir.Node, version: int, model_version: int) -> bool:
    """Return whether an op has the same schema in two operator sets, except for the types that it takes.

    Every change of meaning in ONNX came with a change of an attribute, a default or the inputs (Softmax, Split).
    """
    first, second = (_signature(node, opset) for opset in (version, model_version))
    return first is not None and first == second


def _signature(node: ir.Node, version: int) -> tuple[object, ...] | None:
    schema = find_schema(node.domain, node.op_type, version)
    if schema is None:
        return None
    operands = [[(formal.name, formal.option) for formal in side] for side in (schema.inputs, schema.outputs)]
    attributes = {
        name: (formal.type, formal.required, formal.default_value.SerializeToString())
        for name, formal in schema.attributes.items()
    }
    return operands, attributes


def _prepare(model: ir.Model) -> None:
    """Bring functions and calls into the form that the inliner requires.

    Outputs that are inputs, or earlier outputs, pass through an Identity; calls name every output; names within a
    function differ from those of the graph.
    """
    taken = set(names_in(every_graph(model)))
    for (_, name, _), function in model.functions.items():
        for index, output in enumerate(function.outputs):
            if output.producer() is not None and output not in function.outputs[:index]:
                continue
            identity = ir.Node("", "Identity", [output])
            identity.outputs[0].name = f"output_{index}"
            function.append(identity)
            function.outputs[index] = identity.outputs[0]
        prefix = name
        while any(used.startswith(f"{prefix}/") for used in taken):
            prefix += "_"
        for graph in graphs_within(function.graph):
            for value in dict.fromkeys(values_of(graph)):
                if value.name:
                    value.name = f"{prefix}/{value.name}"
            for node in graph:
                node.name = f"{prefix}/{node.name or node.op_type}"
    count = 0
    for graph in every_graph(model):
        for node in graph:
            called = model.functions.get(node.op_identifier())
            if called is None:
                continue
            node.resize_outputs(len(called.outputs))
            for output in node.outputs:
                if not output.name:
                    count += 1
                    output.name = f"{node.op_type}/unused_{count}"
