"""A branch as a model of its own, and what became of that model back in the place of the branch."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .edit import SAME, Editor, drop_unused, names_in, note_same, set_inputs
from .nesting import captured_values, graphs_within, nodes_within, values_of


def detached(graph: ir.Graph, model: ir.Model) -> ir.Model:
    """Return a copy of a branch in the main graph of `model` as a model. Neither is changed; weights are shared.

    What the branch captures are inputs under their names, in the order in which they are read; initializers among that
    are initializers. The types of what it captures must be known to run it.
    """
    read = dict.fromkeys(captured_values(graph))
    stored = [value for value in read if value.is_initializer() and not value.is_graph_input()]
    view = ir.GraphView(
        [value for value in read if value not in stored],
        graph.outputs,
        nodes=graph,
        initializers=[*graph.initializers.values(), *stored],
        opset_imports=dict(model.graph.opset_imports),
        name=graph.name,
    )
    copy = view.clone()
    for value in copy.inputs:
        value.const_value = None  # a default, or what inference knows of it
    note_same(copy, (*model.graph.meta.get(SAME, ()), *graph.meta.get(SAME, ())))
    return ir.Model(copy, ir_version=model.ir_version, functions=list(model.functions.values()))


def put_back(changed: ir.Model, graph: ir.Graph, given: Mapping[str, ir.Value], model: ir.Model) -> None:
    """Let a branch in the main graph of `model` be what `detached` made of it, and what has been changed of that since.

    Initializers that the branch captured stay where they are, as far as they are still read as they were; others come
    into the branch. Names of the branch stay; new ones are made such that nothing in `model` has them.

    Args:
        changed: Of no use afterwards. Its inputs, outputs and operator set must be those that it had.
        graph: The branch, changed in place.
        given: What the branch captures, by the names that this has in `changed`.
        model: The model of the branch.
    """
    inner = changed.graph
    results, nodes, constants = list(inner.outputs), list(inner), dict(inner.initializers)
    inner.outputs.clear()
    inner.initializers.clear()
    outside = {value: given[value.name or ""] for value in inner.inputs}
    for name, value in constants.items():
        if name in given and value.const_value is given[name].const_value:
            outside[value] = given[name]
    for value, outer in outside.items():
        value.replace_all_uses_with(outer)
    kept = {"", *names_in(graphs_within(graph))}
    graph.outputs.clear()
    for node in list(nodes_within(graph)):
        set_inputs(node, ())  # what it used of the graphs around it is used no more
    graph.remove(list(graph))
    graph.initializers.clear()
    drop_unused(model.graph, given.values())
    editor = Editor(model)
    stored = [value for value in constants.values() if value not in outside and (value.uses() or value in results)]
    made = (part for nested in graphs_within(inner) for part in (*values_of(nested), *nested))
    inputs = set(inner.inputs)
    for part in [*stored, *made]:
        if part not in inputs and (name := part.name or "") not in kept:
            part.name = editor.name(name)
    inner.remove(nodes)
    graph.extend(nodes)
    for value in stored:
        graph.register_initializer(value)
    graph.outputs.extend(outside.get(value, value) for value in results)
    for domain, version in inner.opset_imports.items():
        model.graph.opset_imports.setdefault(domain, version)
