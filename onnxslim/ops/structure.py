"""What the ops of a structure (`broadcast`, `reshape`, `concat`: the kinds of `ops.axes`) do to axes, by shapes and
attributes.

A handler gets the relations and a node whose shapes are known, and says which axes are one, which are products, and
which share single indices. Whatever a handler does not understand it freezes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.binding import attribute, bind
from onnxslim.ops.indexing import PICKING
from onnxslim.ops.parameters import computed, describe, pieces, reduced, slices
from onnxslim.ops.relating import Handler, UnknownShape, along, freeze_node, freeze_settings, known_axes
from onnxslim.ops.relations import Freeze, Relations

__all__ = ["HANDLERS", "UnknownShape", "freeze_node"]

SOFTMAX_ALONG_ONE = 13
"""Since this operator set, Softmax works along one axis alone."""


def _broadcast(relations: Relations, node: ir.Node) -> None:
    for result in node.outputs:
        for source in node.inputs:
            if source is not None and result.name and (result is node.outputs[0] or relations.axes(result)):
                along(relations, node, source, result)


def _mixing(relations: Relations, node: ir.Node) -> None:
    _broadcast(relations, node)
    axes = () if node.inputs[0] is None else relations.axes(node.inputs[0]) or ()
    axis, several = attribute(node, "axis"), attribute(node, "axes")
    if isinstance(several, tuple):
        along_which = [int(each) for each in several]
    elif isinstance(axis, int):
        # Before operator set 13, Softmax took all axes from this one on for one.
        opset = node.graph.opset_imports.get("", SOFTMAX_ALONG_ONE) if node.graph is not None else SOFTMAX_ALONG_ONE
        along_which = [axis] if opset >= SOFTMAX_ALONG_ONE else list(range(min(axis, 1) if axis >= 0 else 0, len(axes)))
    else:
        along_which = list(range(len(axes)))
    for at in along_which:
        if -len(axes) <= at < len(axes):
            relations.mix(axes[at])


def _like_first(relations: Relations, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    for result in node.outputs:
        if result.name:
            along(relations, node, source, result)


def _frozen(relations: Relations, node: ir.Node) -> None:
    fitted = bind(node)
    assert fitted is not None
    freeze_node(relations, node, f"{describe(node)}: {fitted.signature.reason}")


def _quantize(relations: Relations, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    along(relations, node, source, result)
    axes = relations.axes(source)
    axis = attribute(node, "axis")
    for scale in node.inputs[1:]:
        own = None if scale is None else relations.axes(scale)
        if scale is None or own == ():
            continue
        if axes is not None and own is not None and len(own) == 1 and isinstance(axis, int):
            if relations.sizes[own[0]] != 1:
                relations.equate(own[0], axes[axis], describe(node))
        else:
            freeze_node(relations, node, f"{describe(node)} scales blocks")


def _transpose(relations: Relations, node: ir.Node) -> None:
    source, result = known_axes(relations, node)
    permutation = attribute(node, "perm") or tuple(reversed(range(len(source))))
    assert isinstance(permutation, tuple)
    for axis, place in zip(result, permutation, strict=True):
        relations.equate(source[place], axis, describe(node))


def _flatten(relations: Relations, node: ir.Node) -> None:
    source, result = known_axes(relations, node)
    freeze_settings(relations, node)
    where = describe(node)
    left, right = list(source), list(result)
    names = _names(node.inputs[0]), _names(node.outputs[0])
    # What is before the first symbolic dimension, between two of them, and after the last is aligned by itself.
    symbols = [[at for at, axis in enumerate(side) if relations.sizes[axis] is None] for side in (left, right)]
    same = len(symbols[0]) == len(symbols[1]) and (
        len(symbols[0]) <= 1 or [names[0][at] for at in symbols[0]] == [names[1][at] for at in symbols[1]]
    )
    if same:
        bounds = [[-1, *symbols[side], len((left, right)[side])] for side in (0, 1)]
        for part in range(len(bounds[0]) - 1):
            relations.align(
                left[bounds[0][part] + 1 : bounds[0][part + 1]], right[bounds[1][part] + 1 : bounds[1][part + 1]], where
            )
    else:
        # Only what is equal at either end is known to be the same.
        while left and right and relations.sizes[left[0]] == relations.sizes[right[0]] is not None:
            relations.equate(left.pop(0), right.pop(0), where)
        while left and right and relations.sizes[left[-1]] == relations.sizes[right[-1]] is not None:
            relations.equate(left.pop(), right.pop(), where)
        for axis in (*left, *right):
            relations.freeze(axis, Freeze(f"{where}: a size is not known before the model runs"))


def _reshape(relations: Relations, node: ir.Node) -> None:
    _flatten(relations, node)
    result = known_axes(relations, node)[1]
    _freeze_computed(relations, node, 1, result)


def _expand(relations: Relations, node: ir.Node) -> None:
    _broadcast_first(relations, node)
    _freeze_computed(relations, node, 1, known_axes(relations, node)[1])


def _filled(relations: Relations, node: ir.Node) -> None:
    freeze_settings(relations, node, 0)
    _freeze_computed(relations, node, 0, relations.axes(node.outputs[0]) or ())


def _freeze_computed(relations: Relations, node: ir.Node, index: int, result: tuple[int, ...]) -> None:
    """Freeze the axes of a result whose lengths are computed: the numbers among them can be rewritten, no others.

    0 and -1 (Reshape) and 1 (Expand) follow by themselves.
    """
    if computed(node, index):
        entries = pieces(node.inputs[index])
        missing = len(result) - (0 if entries is None else len(entries))
        for at, axis in enumerate(result):
            known = entries is None or at < missing or entries[at - missing] is not None
            if entries is None or not known:
                relations.freeze(axis, Freeze(f"{describe(node)}: its shape is computed when the model runs"))


def _concat(relations: Relations, node: ir.Node) -> None:
    axis = attribute(node, "axis")
    assert isinstance(axis, int)
    _joined(relations, node, axis, node.outputs[0], [value for value in node.inputs if value is not None])


def _quantized_concat(relations: Relations, node: ir.Node) -> None:
    # (scale, zero point of the result), then (data, scale, zero point) of each part.
    axis = attribute(node, "axis")
    assert isinstance(axis, int)
    _joined(relations, node, axis, node.outputs[0], [value for value in node.inputs[2::3] if value is not None])


def _split(relations: Relations, node: ir.Node) -> None:
    axis = attribute(node, "axis")
    assert isinstance(axis, int)
    freeze_settings(relations, node)
    source = node.inputs[0]
    assert source is not None
    _joined(relations, node, axis, source, [value for value in node.outputs if value.name])
    if computed(node, 1):
        freeze_node(relations, node, f"{describe(node)}: its sizes are computed when the model runs")


def _joined(relations: Relations, node: ir.Node, axis: int, whole: ir.Value, parts: list[ir.Value]) -> None:
    """Say that `parts` lie one after the other in `whole`."""
    where = describe(node)
    whole_axes, part_axes = relations.axes(whole), [relations.axes(part) for part in parts]
    if whole_axes is None or None in part_axes:
        freeze_node(relations, node, f"{where}: a shape is not known before the model runs")
        return
    axis %= len(whole_axes)
    begin = 0
    total = relations.sizes[whole_axes[axis]]
    sizes = [relations.sizes[axes[axis]] for axes in part_axes if axes is not None]
    known = None not in sizes and sum(size or 0 for size in sizes) == total
    for axes, size in zip(part_axes, sizes, strict=True):
        assert axes is not None
        for at, (one, other) in enumerate(zip(axes, whole_axes, strict=True)):
            if at != axis:
                relations.equate(one, other, where)
            elif known and size is not None:
                relations.pair(one, np.arange(size), other, begin + np.arange(size))
                begin += size
            else:
                for each in (one, other):
                    relations.freeze(each, Freeze(f"{where}: a size is not known before the model runs"))


def _reduce(relations: Relations, node: ir.Node) -> None:
    source, result = known_axes(relations, node)
    freeze_settings(relations, node)
    gone = reduced(node, len(source))
    if gone is None:
        freeze_node(relations, node, f"{describe(node)}: its axes are computed when the model runs")
        return
    if fit_kind(node) == "reduce":
        for at in gone:
            relations.mix(source[at])
    kept = [axis for at, axis in enumerate(source) if at not in gone]
    rest = [axis for at, axis in enumerate(result) if at not in gone] if len(result) == len(source) else list(result)
    for one, other in zip(kept, rest, strict=True):
        relations.equate(one, other, describe(node))


def _argument(relations: Relations, node: ir.Node) -> None:
    source, _ = known_axes(relations, node)
    for at in reduced(node, len(source)) or ():
        relations.freeze(source[at], Freeze(f"{describe(node)} answers with places in it"))
    _reduce(relations, node)


def _shape(relations: Relations, node: ir.Node) -> None:
    """Freeze what is read of a shape: a size that flows into arithmetic must stay what it was."""
    source = relations.axes(node.inputs[0]) if node.inputs[0] is not None else None
    relations.freeze_value(node.outputs[0], Freeze(f"{describe(node)}: places in a shape", inherent=True))
    if source is None:
        return
    rank = len(source)
    start, end = attribute(node, "start"), attribute(node, "end")
    entries = list(range(rank))[start if isinstance(start, int) else None : end if isinstance(end, int) else None]
    read: set[int] = set()
    for use in node.outputs[0].uses():
        read |= _entries_read(use.node, use.idx, entries)
    if node.outputs[0].is_graph_output():
        read = set(range(rank))
    for at in read:
        relations.freeze(source[at], Freeze(f"{describe(node)}: its size is read when the model runs"))


def _entries_read(node: ir.Node, index: int, entries: list[int]) -> set[int]:
    kind = fit_kind(node)
    if kind == "gather" and index == 0:
        places = constant(node.inputs[1])
        if places is not None:
            return {entries[int(place)] for place in places.ravel()}
    if kind == "slice" and index == 0:
        taken = slices(node, 1)
        if taken is not None:
            return set(entries[slice(*taken.get(0, (0, None, 1)))])
    return set(entries)


def _broadcast_first(relations: Relations, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    freeze_settings(relations, node)
    along(relations, node, source, result)


def fit_kind(node: ir.Node) -> str:
    """Return the word of the structure of `node`, empty where it has none."""
    fitted = bind(node)
    return "" if fitted is None else fitted.signature.kind


def _names(value: ir.Value | None) -> list[str]:
    """Return the dimensions of `value` as text; those without a name are equal to no other."""
    assert value is not None
    assert value.shape is not None
    return [
        str(size) if isinstance(size, int) else size.value or f"?{id(value)}.{at}"
        for at, size in enumerate(value.shape)
    ]


HANDLERS: Mapping[str, Handler] = {
    "broadcast": _broadcast,
    "first": _like_first,
    "mixing": _mixing,
    "quantize": _quantize,
    "transpose": _transpose,
    "reshape": _reshape,
    "flatten": _flatten,
    "expand": _expand,
    "filled": _filled,
    "concat": _concat,
    "qconcat": _quantized_concat,
    "split": _split,
    "reduce": _reduce,
    "sum": _reduce,
    "argument": _argument,
    "shape": _shape,
    "frozen": _frozen,
    **PICKING,
}
"""The kinds of `ops.axes` and what they do."""
