"""The schemas of operators, and the check of nodes against them when a model is opened."""

from __future__ import annotations

import functools

import onnx
import onnx_ir as ir

from onnxslim.errors import ModelUnreadable
from onnxslim.model.checking import HINT, declared_attributes, describe_node
from onnxslim.model.constants import is_constant_node
from onnxslim.model.nesting import graphs_within, main_graphs

UNBOUNDED = 2**31 - 1
"""Maximum of inputs or outputs in the schema of an operator that takes any number."""


def check_signatures(model: ir.Model) -> None:
    """Check that every node has the inputs, outputs and attributes of its operator.

    Operators without a schema are skipped. Functions should be inlined first: an attribute that a call omits may be
    one that a node in the body requires. Source: ONNX operator schemas (docs/Operators.md).

    Raises:
        ModelUnreadable: A node has too many or too few inputs or outputs, lacks an attribute, or has one of another
            type; or its operator is newer than the opset of the model.
    """
    parts = [(model.opset_imports, graph) for graph in main_graphs(model)]
    for function in model.functions.values():
        parts += [({**model.opset_imports, **function.opset_imports}, graph) for graph in graphs_within(function.graph)]
    for opsets, graph in parts:
        for node in graph:
            wrong = _violation(node, opsets[node.domain]) if node.domain in opsets else ""
            if wrong:
                raise ModelUnreadable(f"{describe_node(node)} {wrong}", hint=HINT)


def _violation(node: ir.Node, version: int) -> str:
    """Return what is wrong with a node by the schema of its operator, as text; empty if nothing is."""
    schema = find_schema(node.domain, node.op_type, version)
    if schema is None:
        known = onnx.defs.has(node.op_type, domain=node.domain)
        return f"is no operator of opset {version}, which the model names" if known else ""
    for kind, found, minimum, maximum in (
        ("inputs", len(node.inputs), schema.min_input, schema.max_input),
        ("outputs", len(node.outputs), schema.min_output, schema.max_output),
    ):
        if not minimum <= found <= maximum:
            takes = f"{minimum} or more" if maximum == UNBOUNDED else " to ".join(map(str, sorted({minimum, maximum})))
            return f"has {found} {kind}, and its operator takes {takes}"
    types, required = declared_attributes(node.domain, node.op_type, version)
    for name, attribute in node.attributes.items():
        expected = types.get(name, attribute.type.value)
        if attribute.type.value != expected:
            kind = ir.AttributeType(expected).name.lower()
            return f"has the attribute {name!r} as {attribute.type.name.lower()}, and its operator takes {kind}"
    for name in sorted(required - node.attributes.keys()):
        return f"lacks the attribute {name!r}"
    return "holds no constant" if is_constant_node(node) and not node.attributes else ""


@functools.cache
def find_schema(domain: str, op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """Return the schema of an op at an opset, or None where there is none."""
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
