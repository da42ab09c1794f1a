"""What every handler of a structure does: it asks for shapes, says what broadcasts, freezes what is no data."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from onnxslim.ops.parameters import describe
from onnxslim.ops.relations import Freeze, Relations

Handler = Callable[[Relations, ir.Node], None]


class UnknownShape(Exception):
    """A handler needs a shape that is not known."""


def freeze_node(relations: Relations, node: ir.Node, reason: str) -> None:
    """Freeze every axis of every input and output of `node`."""
    for value in (*node.inputs, *node.outputs):
        relations.freeze_value(value, Freeze(reason))


def along(relations: Relations, node: ir.Node, source: ir.Value, result: ir.Value) -> None:
    """Say that `source` broadcasts to `result`: axes aligned at the right are one, but for those of size 1."""
    left, right = relations.axes(source), relations.axes(result)
    if left is None or right is None or len(left) > len(right):
        for value in (source, result):
            relations.freeze_value(value, Freeze(f"{describe(node)}: a shape is not known before the model runs"))
        return
    for one, other in zip(reversed(left), reversed(right), strict=False):
        if relations.sizes[one] != 1:
            relations.equate(one, other, describe(node))


def freeze_settings(relations: Relations, node: ir.Node, first: int = 1) -> None:
    """Freeze the inputs that are no data, but lengths, places and axes."""
    for value in node.inputs[first:]:
        relations.freeze_value(value, Freeze(f"{describe(node)} reads it as places or lengths", inherent=True))


def known_axes(relations: Relations, node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes of the first input and of the first output.

    Raises:
        UnknownShape: Not even the rank of one of them is known.
    """
    source = None if node.inputs[0] is None else relations.axes(node.inputs[0])
    result = relations.axes(node.outputs[0])
    if source is None or result is None:
        raise UnknownShape
    return source, result
