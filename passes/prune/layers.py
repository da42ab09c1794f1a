"""The table of layers: how wide each was and is, and what it costs."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.cost import macs_by_value
from onnxslim.ops.binding import BoundSignature, bind, dimensions
from onnxslim.pipeline.interface import LayerChange


def layer_changes(before: ir.Model, after: ir.Model) -> tuple[LayerChange, ...]:
    """Return a row for each node that multiplies and whose width or MACs differ between two models.

    Both have the sizes of a sample (`onnxslim.analysis.specialize`). Nodes that are one make a value of the same name.
    """
    widths = _widths(after)
    macs_before, macs_after = macs_by_value(before, None), macs_by_value(after, None)
    result: list[LayerChange] = []
    for output, (node, width) in _widths(before).items():
        if output not in widths:
            continue
        macs = macs_before.get(output, 0), macs_after.get(output, 0)
        change = LayerChange(node.name or output, node.op_type, "channels", width, widths[output][1], *macs)
        if (change.before, change.macs_before) != (change.after, change.macs_after):
            result.append(change)
    return tuple(result)


def _widths(model: ir.Model) -> dict[str, tuple[ir.Node, int]]:
    """Return for each node that multiplies, by its output, how many channels come out."""
    result: dict[str, tuple[ir.Node, int]] = {}
    for node in model.graph:
        fitted = bind(node)
        width = None if fitted is None or not fitted.signature.macs else _width(fitted)
        if width is not None:
            result[node.outputs[0].name or ""] = (node, width)
    return result


def _width(fitted: BoundSignature) -> int | None:
    """Return the size of the axis of the output that only weights, or the second operand, bring in: its channels."""
    operand, value = fitted.signature.outputs[0], fitted.node.outputs[0]
    shape = dimensions(value)
    if shape is None:
        return None
    first = {factor for dimension in fitted.signature.inputs[0].dimensions for factor in dimension.factors}
    for (dimension, _), size in zip(operand.axes(len(shape)), shape, strict=True):
        if not dimension.ellipsis and set(dimension.factors) - first - fitted.signature.fixed:
            return size
    return None
