"""What ops that pick, place or repeat elements say about axes: Slice, Gather, Scatter, Pad, Resize, Tile, TopK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from onnxslim.model.constants import constant
from onnxslim.ops.binding import attribute
from onnxslim.ops.parameters import numbers, padding, scales, sliced, slices
from onnxslim.ops.relations import (
    Equal,
    Factor,
    Factored,
    FreezeCode,
    NodeAxes,
    Pairs,
    Relate,
    Relation,
    UnknownShape,
)


def _slice(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    taken = slices(site.node, len(source))
    for left, right in zip(source, result, strict=True):
        if taken is not None and left.position not in taken:
            yield Equal(left, right)
            continue
        size = site.size(left)
        if taken is not None and size is not None:
            places = sliced(size, *taken[left.position])
            if len(places) == site.size(right):
                yield Pairs(left, places, right, np.arange(len(places)))
                continue
        yield from site.freeze((left, right), FreezeCode.COMPUTED_PLACES)


def _gather(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.source_and_result()
    indices = site.axes(site.node.inputs[1])
    axis = attribute(site.node, "axis")
    assert isinstance(axis, int)
    axis %= len(source)
    if len(result) != len(source) - 1 + len(indices):
        raise UnknownShape
    for left, right in zip(source[:axis], result[:axis], strict=True):
        yield Equal(left, right)
    for left, right in zip(source[axis + 1 :], result[axis + len(indices) :], strict=True):
        yield Equal(left, right)
    places = constant(site.node.inputs[1])
    size = site.size(source[axis])
    if places is not None and places.ndim == 1 and size is not None:
        yield Pairs(source[axis], places.astype(np.int64) % size, result[axis], np.arange(len(places)))
        yield from site.freeze_settings()
        return
    yield from site.freeze((source[axis],), FreezeCode.LOOKED_UP)
    for left, right in zip(indices, result[axis:], strict=False):
        yield Equal(left, right)


def _pad(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    pads = padding(site.node, len(source))
    fills = attribute(site.node, "mode") == "constant"
    for left, right in zip(source, result, strict=True):
        size = site.size(left)
        before, after = (-1, -1) if pads is None else pads[left.position]
        if (before, after) == (0, 0):
            yield Equal(left, right)
        elif fills and min(before, after) >= 0 and size is not None and site.size(right) == before + size + after:
            yield Pairs(left, np.arange(size), right, before + np.arange(size))
        else:
            yield from site.freeze((left, right), FreezeCode.PADDED)


def _resize(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    node = site.node
    factors = scales(node, len(source))
    cropped = attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    for left, right in zip(source, result, strict=True):
        size = site.size(left)
        if not cropped and (
            factors[left.position] == 1
            or (size is not None and size == site.size(right) and constant(node.inputs[-1]) is not None)
        ):
            yield Equal(left, right)
        else:
            yield from site.freeze((left, right), FreezeCode.RESIZED)


def _elements(site: NodeAxes) -> Iterator[Relation]:
    """GatherElements and ScatterElements: data and indices lie side by side, but for the axis that is picked along."""
    axis = attribute(site.node, "axis")
    operands = [site.axes(value) for value in (*site.node.inputs, site.node.outputs[0])]
    if not isinstance(axis, int) or len({len(axes) for axes in operands}) > 1:
        raise UnknownShape
    for index, first in enumerate(operands[0]):
        for axes in operands:
            if index == axis % len(operands[0]):
                yield from site.freeze((axes[index],), FreezeCode.LOOKED_UP)
            else:
                yield Equal(first, axes[index])


def _gather_tuples(site: NodeAxes) -> Iterator[Relation]:
    """GatherND: the axes of the data that its tuples of indices do not reach follow; the others are looked up in."""
    source, result = site.source_and_result()
    indices = site.axes(site.node.inputs[1])
    batch = attribute(site.node, "batch_dims")
    length = site.size(indices[-1]) if indices else None
    if length is None or not isinstance(batch, int):
        raise UnknownShape
    yield from site.freeze((*source[: batch + length], indices[-1]), FreezeCode.LOOKED_UP)
    for left, right in zip(indices[:-1], result, strict=False):
        yield Equal(left, right)
    for left, right in zip(source[:batch], result, strict=False):
        yield Equal(left, right)
    for left, right in zip(source[batch + length :], result[len(indices) - 1 :], strict=True):
        yield Equal(left, right)


def _scatter_tuples(site: NodeAxes) -> Iterator[Relation]:
    """ScatterND: what its tuples of indices do not reach is one in data, updates and result.

    Which updates there are says which places are overwritten: an update of 0 is not the same as none.
    """
    source, result = site.source_and_result()
    indices, updates = site.axes(site.node.inputs[1]), site.axes(site.node.inputs[2])
    length = site.size(indices[-1]) if indices else None
    if length is None:
        raise UnknownShape
    for left, right in zip(source, result, strict=True):
        yield Equal(left, right)
    frozen = (*source[:length], *indices, *updates[: len(indices) - 1])
    yield from site.freeze(frozen, FreezeCode.SCATTERED)
    for left, right in zip(source[length:], updates[len(indices) - 1 :], strict=True):
        yield Equal(left, right)


def _tile(site: NodeAxes) -> Iterator[Relation]:
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    repeats = numbers(site.node, "repeats", 1)
    for left, right in zip(source, result, strict=True):
        if repeats is None or len(repeats) != len(source):
            yield from site.freeze((left, right), FreezeCode.COMPUTED_REPEATS)
        elif repeats[left.position] == 1:
            yield Equal(left, right)
        elif repeats[left.position] > 1:
            times = Factor("repeats", left.position, repeats[left.position])
            yield from site.freeze((times,), FreezeCode.REPEATED)
            yield Factored(right, (times, left))


def _ordered(site: NodeAxes) -> Iterator[Relation]:
    """CumSum and TopK: along one axis places have an order; the others are one in all outputs."""
    source, _ = site.source_and_result()
    yield from site.freeze_settings()
    node = site.node
    held = [attribute(node, "axis")] if attribute(node, "axis") is not None else numbers(node, "axis", 1)
    if held is None or len(held) != 1 or not isinstance(held[0], int):
        yield from site.freeze_node(FreezeCode.COMPUTED_AXIS)
        return
    for output in node.outputs:
        result = site.axes(output) if output.name and site.shape_of(output) is not None else ()
        for left, right in zip(source, result, strict=False):
            if left.position == held[0] % len(source):
                yield from site.freeze((left, right), FreezeCode.ORDERED)
            else:
                yield Equal(left, right)


PICKING: Mapping[str, Relate] = {
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
"""The kinds of `ops.axes` that pick, place or repeat, and what they say."""
