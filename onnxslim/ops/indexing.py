"""What ops that pick, place or repeat elements do to axes: Slice, Gather, Scatter, Pad, Resize, Tile, TopK."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.binding import attribute
from onnxslim.ops.parameters import describe, numbers, padding, scales, sliced, slices
from onnxslim.ops.relating import Handler, UnknownShape, freeze_node, freeze_settings, known_axes
from onnxslim.ops.relations import Freeze, Relations


def _slice(relations: Relations, node: ir.Node) -> None:
    source, result = known_axes(relations, node)
    freeze_settings(relations, node)
    taken = slices(node, len(source))
    for at, (one, other) in enumerate(zip(source, result, strict=True)):
        size = relations.sizes[one]
        if taken is not None and at not in taken:
            relations.equate(one, other, describe(node))
            continue
        if taken is not None and size is not None:
            start, end, step = taken[at]
            indices = sliced(size, start, end, step)
            if len(indices) == relations.sizes[other]:
                relations.pair(one, indices, other, np.arange(len(indices)))
                continue
        for axis in (one, other):
            relations.freeze(axis, Freeze(f"{describe(node)} takes places that are computed when the model runs"))


def _gather(relations: Relations, node: ir.Node) -> None:
    source, result = known_axes(relations, node)
    where = describe(node)
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
        freeze_settings(relations, node)
        return
    relations.freeze(source[axis], Freeze(f"{where} looks places up in it"))
    for one, other in zip(picked, result[axis:], strict=False):
        relations.equate(one, other, where)


def _pad(relations: Relations, node: ir.Node) -> None:
    source, result = known_axes(relations, node)
    freeze_settings(relations, node)
    pads = padding(node, len(source))
    constant = attribute(node, "mode") == "constant"
    for at, (one, other) in enumerate(zip(source, result, strict=True)):
        size, padded = relations.sizes[one], relations.sizes[other]
        before, after = (-1, -1) if pads is None else pads[at]
        if (before, after) == (0, 0):
            relations.equate(one, other, describe(node))
        elif constant and before >= 0 and after >= 0 and size is not None and padded == before + size + after:
            relations.pair(one, np.arange(size), other, before + np.arange(size))
        else:
            for axis in (one, other):
                relations.freeze(axis, Freeze(f"{describe(node)} pads it, and not with a constant number of constants"))


def _resize(relations: Relations, node: ir.Node) -> None:
    source, result = known_axes(relations, node)
    freeze_settings(relations, node)
    factors = scales(node, len(source))
    cropped = attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    for at, (one, other) in enumerate(zip(source, result, strict=True)):
        sizes = relations.sizes[one], relations.sizes[other]
        if (factors[at] == 1 and not cropped) or (
            sizes[0] is not None and sizes[0] == sizes[1] and constant(node.inputs[-1]) is not None and not cropped
        ):
            relations.equate(one, other, describe(node))
        else:
            for axis in (one, other):
                relations.freeze(axis, Freeze(f"{describe(node)} resizes it", inherent=True))


def _elements(relations: Relations, node: ir.Node) -> None:
    """GatherElements and ScatterElements: data and indices lie side by side, but for the axis that is picked along."""
    axis = attribute(node, "axis")
    known = [None if value is None else relations.axes(value) for value in (*node.inputs, node.outputs[0])]
    if not isinstance(axis, int) or any(each is None or len(each) != len(known[0] or ()) for each in known):
        raise UnknownShape
    where = describe(node)
    axes = [each for each in known if each is not None]
    for at in range(len(axes[0])):
        for each in axes:
            if at == axis % len(axes[0]):
                relations.freeze(each[at], Freeze(f"{where} looks places up in it"))
            else:
                relations.equate(axes[0][at], each[at], where)


def _gather_tuples(relations: Relations, node: ir.Node) -> None:
    """GatherND: the axes of the data that its tuples of indices do not reach follow; the others are looked up in."""
    source, result = known_axes(relations, node)
    picks = node.inputs[1]
    picked = None if picks is None else relations.axes(picks)
    batch = attribute(node, "batch_dims")
    length = None if not picked else relations.sizes[picked[-1]]
    if picked is None or length is None or not isinstance(batch, int):
        raise UnknownShape
    where = describe(node)
    for axis in (*source[: batch + length], picked[-1]):
        relations.freeze(axis, Freeze(f"{where} looks places up in it"))
    for one, other in zip(picked[:-1], result, strict=False):
        relations.equate(one, other, where)
    for one, other in zip(source[:batch], result, strict=False):
        relations.equate(one, other, where)
    for one, other in zip(source[batch + length :], result[len(picked) - 1 :], strict=True):
        relations.equate(one, other, where)


def _scatter_tuples(relations: Relations, node: ir.Node) -> None:
    """ScatterND: what its tuples of indices do not reach is one in data, updates and result.

    Which updates there are says which places are overwritten: an update of 0 is not the same as none.
    """
    source, result = known_axes(relations, node)
    picked, updates = (None if value is None else relations.axes(value) for value in node.inputs[1:3])
    length = None if not picked else relations.sizes[picked[-1]]
    if picked is None or updates is None or length is None:
        raise UnknownShape
    where = describe(node)
    for one, other in zip(source, result, strict=True):
        relations.equate(one, other, where)
    for axis in (*source[:length], *picked, *updates[: len(picked) - 1]):
        relations.freeze(axis, Freeze(f"{where} puts places into it"))
    for one, other in zip(source[length:], updates[len(picked) - 1 :], strict=True):
        relations.equate(one, other, where)


def _tile(relations: Relations, node: ir.Node) -> None:
    source, result = known_axes(relations, node)
    freeze_settings(relations, node)
    where = describe(node)
    repeats = numbers(node, "repeats", 1)
    for at, (one, other) in enumerate(zip(source, result, strict=True)):
        if repeats is None or len(repeats) != len(source):
            for axis in (one, other):
                relations.freeze(axis, Freeze(f"{where}: its repeats are computed when the model runs"))
        elif repeats[at] == 1:
            relations.equate(one, other, where)
        elif repeats[at] > 1:
            times = relations.fresh(repeats[at])
            relations.freeze(times, Freeze(f"{where} repeats so often", inherent=True))
            relations.multiply(other, [times, one], where)


def _ordered(relations: Relations, node: ir.Node) -> None:
    """CumSum and TopK: along one axis places have an order; the others are one in all outputs."""
    source, _ = known_axes(relations, node)
    freeze_settings(relations, node)
    where = describe(node)
    held = [attribute(node, "axis")] if attribute(node, "axis") is not None else numbers(node, "axis", 1)
    if held is None or len(held) != 1 or not isinstance(held[0], int):
        freeze_node(relations, node, f"{where}: its axis is computed when the model runs")
        return
    for result in node.outputs:
        axes = relations.axes(result) if result.name else None
        for at, (one, other) in enumerate(zip(source, axes or (), strict=False)):
            if at == held[0] % len(source):
                for axis in (one, other):
                    relations.freeze(axis, Freeze(f"{where}: places along it have an order"))
            else:
                relations.equate(one, other, where)


PICKING: Mapping[str, Handler] = {
    "slice": _slice,
    "gather": _gather,
    "elements": _elements,
    "gathertuples": _gather_tuples,
    "scattertuples": _scatter_tuples,
    "pad": _pad,
    "resize": _resize,
    "tile": _tile,
    "ordered": _ordered,
}
"""The kinds of `ops.axes` that pick, place or repeat, and what they do."""
