"""Compares two graphs that lie in the same graph: whether they compute the same, node by node, value by value."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.model.nesting import HOLDERS

Renamed = dict[ir.Value, ir.Value]


def same_graph(first: ir.Graph, second: ir.Graph, known: Renamed | None = None) -> bool:
    """Whether two graphs have the same nodes in the same order, and give the same outputs.

    Args:
        first: One of them.
        second: The other.
        known: What values of graphs around `first` are called around `second`, where these are not one.
    """
    renamed = dict(known or {})
    sides = (first.inputs, second.inputs), (first.outputs, second.outputs), (tuple(first), tuple(second))
    if any(len(one) != len(other) for one, other in sides):
        return False
    renamed.update(zip(first.inputs, second.inputs, strict=True))
    for one, other in zip(first, second, strict=True):
        if not _same_node(one, other, renamed):
            return False
        renamed.update(zip(one.outputs, other.outputs, strict=True))
    return all(_same_value(one, other, renamed) for one, other in zip(first.outputs, second.outputs, strict=True))


def _same_node(one: ir.Node, other: ir.Node, renamed: Renamed) -> bool:
    if one.op_identifier() != other.op_identifier() or one.attributes.keys() != other.attributes.keys():
        return False
    if [bool(output.name) for output in one.outputs] != [bool(output.name) for output in other.outputs]:
        return False
    if len(one.inputs) != len(other.inputs):
        return False
    if not all(_same_value(a, b, renamed) for a, b in zip(one.inputs, other.inputs, strict=True)):
        return False
    return all(_same_attribute(one.attributes[name], other.attributes[name], renamed) for name in one.attributes)


def _same_value(one: ir.Value | None, other: ir.Value | None, renamed: Renamed) -> bool:
    if one is other:
        return True
    if one is None or other is None:
        return False
    if one in renamed:
        return renamed[one] is other
    if one.const_value is None or other.const_value is None or one.is_graph_input() or other.is_graph_input():
        return False
    return one.is_initializer() and other.is_initializer() and _same_tensor(one.const_value, other.const_value)


def _same_tensor(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype.is_string():
        return bool(np.array_equal(one.numpy(), other.numpy()))
    return one.tobytes() == other.tobytes()


def _same_attribute(one: ir.Attr, other: ir.Attr, renamed: Renamed) -> bool:
    if one.type is not other.type or one.is_ref() != other.is_ref():
        return False
    if one.is_ref():
        return one.ref_attr_name == other.ref_attr_name
    if one.type in HOLDERS:
        single = one.type is ir.AttributeType.GRAPH
        mine, theirs = (((held.as_graph(),) if single else tuple(held.as_graphs())) for held in (one, other))
        return len(mine) == len(theirs) and all(same_graph(a, b, renamed) for a, b in zip(mine, theirs, strict=True))
    if one.type is ir.AttributeType.TENSOR:
        return _same_tensor(one.as_tensor(), other.as_tensor())
    return bool(one.value == other.value)
