"""Compares two graphs that lie in the same graph: whether they compute the same, node by node, value by value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.model.nesting import HOLDERS

Renamed = dict[ir.Value, ir.Value]


def same_graph(first: ir.Graph, second: ir.Graph, known: Renamed | None = None) -> bool:
    """Whether two graphs have the same nodes in the same order, and give the same outputs.

    `known` says what values of graphs around `first` are called around `second`, where these are not one.
    """
    renamed = dict(known or {})
    sides = (first.inputs, second.inputs), (first.outputs, second.outputs), (tuple(first), tuple(second))
    if any(len(left) != len(right) for left, right in sides):
        return False
    renamed.update(zip(first.inputs, second.inputs, strict=True))
    for left, right in zip(first, second, strict=True):
        if not _same_node(left, right, renamed):
            return False
        renamed.update(zip(left.outputs, right.outputs, strict=True))
    return all(_same_value(left, right, renamed) for left, right in zip(first.outputs, second.outputs, strict=True))


def _same_node(left: ir.Node, right: ir.Node, renamed: Renamed) -> bool:
    if left.op_identifier() != right.op_identifier() or left.attributes.keys() != right.attributes.keys():
        return False
    if [bool(output.name) for output in left.outputs] != [bool(output.name) for output in right.outputs]:
        return False
    if len(left.inputs) != len(right.inputs):
        return False
    if not all(_same_value(a, b, renamed) for a, b in zip(left.inputs, right.inputs, strict=True)):
        return False
    return all(_same_attribute(left.attributes[name], right.attributes[name], renamed) for name in left.attributes)


def _same_value(left: ir.Value | None, right: ir.Value | None, renamed: Renamed) -> bool:
    if left is right:
        return True
    if left is None or right is None:
        return False
    if left in renamed:
        return renamed[left] is right
    if left.const_value is None or right.const_value is None or left.is_graph_input() or right.is_graph_input():
        return False
    return left.is_initializer() and right.is_initializer() and _same_tensor(left.const_value, right.const_value)


def _same_tensor(left: ir.TensorProtocol, right: ir.TensorProtocol) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.is_string():
        return bool(np.array_equal(left.numpy(), right.numpy()))
    return left.tobytes() == right.tobytes()


def _same_attribute(left: ir.Attr, right: ir.Attr, renamed: Renamed) -> bool:
    if left.type is not right.type or left.is_ref() != right.is_ref():
        return False
    if left.is_ref():
        return left.ref_attr_name == right.ref_attr_name
    if left.type in HOLDERS:
        single = left.type is ir.AttributeType.GRAPH
        mine, theirs = (((attr.as_graph(),) if single else tuple(attr.as_graphs())) for attr in (left, right))
        return len(mine) == len(theirs) and all(same_graph(a, b, renamed) for a, b in zip(mine, theirs, strict=True))
    if left.type is ir.AttributeType.TENSOR:
        return _same_tensor(left.as_tensor(), right.as_tensor())
    return bool(left.value == right.value)
