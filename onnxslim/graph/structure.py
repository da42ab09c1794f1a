"""What the ops of a structure (`broadcast`, `reshape`, `concat`: the kinds of `ops.axes`) do to axes, by shapes and
attributes.

A handler gets the relations and a node whose shapes are known, and says which axes are one, which are products, and
which share single indices. Whatever a handler does not understand it freezes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.graph.axes import attribute, fit
from onnxslim.graph.constants import constant
from onnxslim.graph.relations import Freeze, Relations
from onnxslim.graph.settings import computed, padding, pieces, reduced, scales, slices, title

Handler = Callable[[Relations, ir.Node], None]


def freeze_node(relations: Relations, node: ir.Node, reason: str) -> None:
    """Freeze every axis of every input and output of `node`."""
    for value in (*node.inputs, *node.outputs):
        relations.freeze_value(value, Freeze(reason))


def along(relations: Relations, node: ir.Node, source: ir.Value, result: ir.Value) -> None:
    """Say that `source` broadcasts to `result`: axes aligned at the right are one, but for those of size 1."""
    left, right = relations.axes(source), relations.axes(result)
    if left is None or right is None or len(left) > len(right):
        for value in (source, result):
            relations.freeze_value(value, Freeze(f"{title(node)}: a shape is not known before the model runs"))
        return
    for one, other in zip(reversed(left), reversed(right), strict=False):
        if relations.sizes[one] != 1:
            relations.equate(one, other, title(node))


def _settings(relations: Relations, node: ir.Node, first: int = 1) -> None:
    """Freeze the inputs that are no data, but lengths, places and axes."""
    for value in node.inputs[first:]:
        relations.freeze_value(value, Freeze(f"{title(node)} reads it as places or lengths", inherent=True))


def _broadcast(relations: Relations, node: ir.Node) -> None:
    for result in node.outputs:
        for source in node.inputs:
            if source is not None and result.name and (result is node.outputs[0] or relations.axes(result)):
                along(relations, node, source, result)


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
                relations.equate(own[0], axes[axis], title(node))
        else:
            freeze_node(relations, node, f"{title(node)} scales blocks")


def _transpose(relations: Relations, node: ir.Node) -> None:
    source, result = _known(relations, node)
    permutation = attribute(node, "perm") or tuple(reversed(range(len(source))))
    assert isinstance(permutation, tuple)
    for axis, place in zip(result, permutation, strict=True):
        relations.equate(source[place], axis, title(node))


def _flatten(relations: Relations, node: ir.Node) -> None:
    source, result = _known(relations, node)
    _settings(relations, node)
    where = title(node)
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
    result, where = _known(relations, node)[1], title(node)
    if computed(node, 1):
        entries = pieces(node.inputs[1])
        for at, axis in enumerate(result):
            # -1 and 0 follow by themselves; whatever else is computed may not.
            if entries is None or len(entries) != len(result) or entries[at] not in (-1, 0):
                relations.freeze(axis, Freeze(f"{where}: its shape is computed when the model runs"))


def _expand(relations: Relations, node: ir.Node) -> None:
    _broadcast_first(relations, node)
    if computed(node, 1):
        entries = pieces(node.inputs[1])
        for at, axis in enumerate(_known(relations, node)[1]):
            if entries is None or len(entries) != len(_known(relations, node)[1]) or entries[at] != 1:
                relations.freeze(axis, Freeze(f"{title(node)}: its shape is computed when the model runs"))


def _filled(relations: Relations, node: ir.Node) -> None:
    _settings(relations, node, 0)
    if computed(node, 0):
        relations.freeze_value(node.outputs[0], Freeze(f"{title(node)}: its shape is computed when the model runs"))


def _concat(relations: Relations, node: ir.Node) -> None:
    axis = attribute(node, "axis")
    assert isinstance(axis, int)
    _joined(relations, node, axis, node.outputs[0], [value for value in node.inputs if value is not None])


def _split(relations: Relations, node: ir.Node) -> None:
    axis = attribute(node, "axis")
    assert isinstance(axis, int)
    _settings(relations, node)
    source = node.inputs[0]
    assert source is not None
    _joined(relations, node, axis, source, [value for value in node.outputs if value.name])
    if computed(node, 1):
        freeze_node(relations, node, f"{title(node)}: its sizes are computed when the model runs")


def _joined(relations: Relations, node: ir.Node, axis: int, whole: ir.Value, parts: list[ir.Value]) -> None:
    """Say that `parts` lie one after the other in `whole`."""
    where = title(node)
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


def _slice(relations: Relations, node: ir.Node) -> None:
    source, result = _known(relations, node)
    _settings(relations, node)
    taken = slices(node, len(source))
    for at, (one, other) in enumerate(zip(source, result, strict=True)):
        size = relations.sizes[one]
        if taken is not None and at not in taken:
            relations.equate(one, other, title(node))
            continue
        if taken is not None and size is not None:
            start, end, step = taken[at]
            indices = np.arange(size)[slice(start, end, step)] if step > 0 else np.zeros(0, np.int64)
            if step == 1 and len(indices) == relations.sizes[other]:
                relations.pair(one, indices, other, np.arange(len(indices)))
                continue
        for axis in (one, other):
            relations.freeze(axis, Freeze(f"{title(node)} takes places that are computed, or not in a run"))


def _gather(relations: Relations, node: ir.Node) -> None:
    source, result = _known(relations, node)
    where = title(node)
    picks = node.inputs[1]
    picked = None if picks is None else relations.axes(picks)
    axis = attribute(node, "axis")
    assert isinstance(axis, int)
    axis %= len(source)
    if picked is None or len(result) != len(source) - 1 + len(picked):
        freeze_node(relations, node, f"{where}: a shape is not known before the model runs")
        return
    for one, other in zip(source[:axis], result[:axis], strict=True):
        relations.equate(one, other, where)
    for one, other in zip(source[axis + 1 :], result[axis + len(picked) :], strict=True):
        relations.equate(one, other, where)
    places = constant(picks)
    size = relations.sizes[source[axis]]
    if places is not None and places.ndim == 1 and size is not None:
        relations.pair(source[axis], places.astype(np.int64) % size, result[axis], np.arange(len(places)))
        _settings(relations, node)
        return
    relations.freeze(source[axis], Freeze(f"{where} looks places up in it"))
    for one, other in zip(picked, result[axis:], strict=False):
        relations.equate(one, other, where)


def _pad(relations: Relations, node: ir.Node) -> None:
    source, result = _known(relations, node)
    _settings(relations, node)
    pads = padding(node, len(source))
    constant = attribute(node, "mode") == "constant"
    for at, (one, other) in enumerate(zip(source, result, strict=True)):
        size, padded = relations.sizes[one], relations.sizes[other]
        before, after = (-1, -1) if pads is None else pads[at]
        if (before, after) == (0, 0):
            relations.equate(one, other, title(node))
        elif constant and before >= 0 and after >= 0 and size is not None and padded == before + size + after:
            relations.pair(one, np.arange(size), other, before + np.arange(size))
        else:
            for axis in (one, other):
                relations.freeze(axis, Freeze(f"{title(node)} pads it, and not with a constant number of constants"))


def _resize(relations: Relations, node: ir.Node) -> None:
    source, result = _known(relations, node)
    _settings(relations, node)
    factors = scales(node, len(source))
    cropped = attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    for at, (one, other) in enumerate(zip(source, result, strict=True)):
        sizes = relations.sizes[one], relations.sizes[other]
        if (factors[at] == 1 and not cropped) or (
            sizes[0] is not None and sizes[0] == sizes[1] and constant(node.inputs[-1]) is not None and not cropped
        ):
            relations.equate(one, other, title(node))
        else:
            for axis in (one, other):
                relations.freeze(axis, Freeze(f"{title(node)} resizes it", inherent=True))


def _reduce(relations: Relations, node: ir.Node) -> None:
    source, result = _known(relations, node)
    _settings(relations, node)
    gone = reduced(node, len(source))
    if gone is None:
        freeze_node(relations, node, f"{title(node)}: its axes are computed when the model runs")
        return
    kept = [axis for at, axis in enumerate(source) if at not in gone]
    rest = [axis for at, axis in enumerate(result) if at not in gone] if len(result) == len(source) else list(result)
    for one, other in zip(kept, rest, strict=True):
        relations.equate(one, other, title(node))


def _argument(relations: Relations, node: ir.Node) -> None:
    source, _ = _known(relations, node)
    for at in reduced(node, len(source)) or ():
        relations.freeze(source[at], Freeze(f"{title(node)} answers with places in it"))
    _reduce(relations, node)


def _shape(relations: Relations, node: ir.Node) -> None:
    """Freeze what is read of a shape: a size that flows into arithmetic must stay what it was."""
    source = relations.axes(node.inputs[0]) if node.inputs[0] is not None else None
    relations.freeze_value(node.outputs[0], Freeze(f"{title(node)}: places in a shape", inherent=True))
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
        relations.freeze(source[at], Freeze(f"{title(node)}: its size is read when the model runs"))


def _entries_read(node: ir.Node, index: int, entries: list[int]) -> set[int]:
    fitted = fit(node)
    kind = fitted.signature.kind if fitted is not None else ""
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
    _settings(relations, node)
    along(relations, node, source, result)


def _known(relations: Relations, node: ir.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    source = None if node.inputs[0] is None else relations.axes(node.inputs[0])
    result = relations.axes(node.outputs[0])
    if source is None or result is None:
        raise UnknownShape
    return source, result


def _names(value: ir.Value | None) -> list[str]:
    """Return the dimensions of `value` as text; those without a name are equal to no other."""
    assert value is not None
    assert value.shape is not None
    return [
        str(size) if isinstance(size, int) else size.value or f"?{id(value)}.{at}"
        for at, size in enumerate(value.shape)
    ]


class UnknownShape(Exception):
    """A handler needs a shape that is not known."""


HANDLERS: Mapping[str, Handler] = {
    "broadcast": _broadcast,
    "mixing": _broadcast,
    "quantize": _quantize,
    "transpose": _transpose,
    "reshape": _reshape,
    "flatten": _flatten,
    "expand": _expand,
    "filled": _filled,
    "concat": _concat,
    "split": _split,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "resize": _resize,
    "reduce": _reduce,
    "argument": _argument,
    "shape": _shape,
}
"""The kinds of `ops.axes` and what they do."""
