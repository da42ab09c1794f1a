"""Ops that pick places along axes, or put others there: Slice, Gather and Scatter in all forms, CumSum, TopK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Indices
from onnxslim.model.constants import constant
from onnxslim.ops.arithmetic import floordiv, is_nonnegative, is_positive, maximum, minimum
from onnxslim.ops.cut import Cut
from onnxslim.ops.fact import Element, Fact, NodeFacts, Unknowable, axis_of
from onnxslim.ops.families.elementwise import unary
from onnxslim.ops.op import IndexInto, Op
from onnxslim.ops.parameters import NodeReader, entries, integers, read
from onnxslim.ops.relations import Equal, FreezeCode, NodeAxes, Pairs, Relation, equal_axes
from onnxslim.ops.symbols import Expression, Size

FAR = 1_000_000_000
"""An end of a Slice from here on means the end of the axis: exporters write INT_MAX or this, and no axis is so long."""
LARGEST = ((1 << 31) - 1, (1 << 63) - 1)
"""Ends of a Slice that ONNX Runtime takes for all that is left, in either direction."""
INPUTS_SINCE = 10
"""Since this operator set, Slice takes where to cut as inputs."""

# Slice


class SliceAxis(NamedTuple):
    """What a Slice takes of one axis; None where it is computed when the model runs."""

    axis: int
    """Counted from the front."""
    start: Element
    end: Element
    step: Element


def slice_axes(site: NodeReader, rank: int) -> tuple[SliceAxis, ...]:
    """Return what a Slice takes of each axis that it cuts.

    Raises:
        Unknowable: It is not known which axes these are.
    """
    starts, ends = entries(site, "starts", 1), entries(site, "ends", 2)
    axes = integers(site, "axes", 3)
    if axes is None:
        known = starts if starts is not None else ends
        if known is None:
            raise Unknowable
        axes = tuple(range(len(known)))
    steps = site.elements(4) if site.has(4) else (1,) * len(axes)
    nothing = (None,) * len(axes)
    taken = zip(axes, starts or nothing, ends or nothing, steps or nothing, strict=True)
    return tuple(SliceAxis(axis_of(axis, rank), start, end, step) for axis, start, end, step in taken)


def known_slices(site: NodeReader, rank: int) -> dict[int, tuple[int, int, int]] | None:
    """Return {axis: (start, end, step)} of a Slice; None where any of these is computed when the model runs."""
    try:
        taken = slice_axes(site, rank)
    except Unknowable:
        return None
    known = {axis: tuple(numbers) for axis, *numbers in taken if all(isinstance(number, int) for number in numbers)}
    return known if len(known) == len(taken) else None  # type: ignore[return-value]  # three ints each


def sliced_places(size: int, start: int, end: int, step: int) -> range:
    """Return the places that a Slice takes of an axis, as ONNX Runtime does.

    Negative starts and ends count from the end of the axis, once. Then they are clamped: forwards to 0 and the size,
    backwards a start to the first and last place, an end to -1 and the size (ONNX specification, Slice).
    """
    if step > 0:
        first, last = (min(max(place + size if place < 0 else place, 0), size) for place in (start, end))
        return range(first, last, step)
    first = min(max(start + size if start < 0 else start, 0), size - 1)
    last = -1 if end in LARGEST else min(max(end + size if end < 0 else end, -1), size)
    return range(first, last, step)


def slice_(site: NodeFacts) -> Fact:
    """Slice: starts and ends are held within the axis, negative ones count from its end."""
    first, shape = site.fact(0), list(site.shape())
    elements = first.elements
    for axis, start, end, step in slice_axes(site, len(shape)):
        whole = shape[axis]
        size = sliced_size(whole, start, end, step)
        shape[axis] = site.unknown(axis) if size is None else size
        if elements is not None and size is not None:
            if isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
                elements = tuple(elements[place] for place in sliced_places(len(elements), start, end, step))
            elif size != whole or not isinstance(step, int) or step < 0:
                elements = None
        else:
            elements = None
    return Fact(first.dtype, tuple(shape), elements)


def sliced_size(whole: Size, start: Element, end: Element, step: Element) -> Size | None:
    """Return how much a Slice leaves of an axis, or None."""
    if not isinstance(step, int) or step == 0 or isinstance(start, float) or isinstance(end, float):
        return None
    if step < 0:
        return _sliced_backwards(whole, start, end, step)
    if isinstance(whole, int) and isinstance(start, int) and isinstance(end, int):
        return len(sliced_places(whole, start, end, step))
    low, high = _held(whole, start), _held(whole, end)
    if low is None or high is None:
        return None
    return floordiv(maximum(0, high - low) + (step - 1), step)


def _held(whole: Size, place: Size | None) -> Size | None:
    """Return a place of a Slice, counted from the front and held within the axis."""
    if place is None:
        return None
    if isinstance(place, int):
        if place >= FAR - 1:
            return whole
        return minimum(place, whole) if place >= 0 else maximum(0, whole + place)
    if is_nonnegative(place):
        return minimum(place, whole)
    if is_positive(-place):
        return maximum(0, whole + place)
    return None


def _sliced_backwards(whole: Size, start: Size | None, end: Size | None, step: int) -> Size | None:
    if isinstance(end, int) and end >= FAR - 1:
        return None  # runtimes take it for the first place, for the one before it, or for the end
    if isinstance(whole, int) and isinstance(start, int) and isinstance(end, int):
        return len(sliced_places(whole, start, end, step))
    # The whole axis backwards is all that is worth more.
    if step == -1 and (start == -1 or (isinstance(start, int) and start >= FAR - 1)):
        return whole if isinstance(end, int) and end <= -FAR + 1 else None
    return None


def relate_slice(site: NodeAxes) -> Iterator[Relation]:
    """Yield which places are taken of the axes that are cut; the others are one."""
    source, result = site.source_and_result()
    yield from site.freeze_settings()
    taken = known_slices(site, len(source))
    for left, right in zip(source, result, strict=True):
        if taken is not None and left.position not in taken:
            yield Equal(left, right)
            continue
        size = site.size(left)
        if taken is not None and size is not None:
            places = np.array(sliced_places(size, *taken[left.position]), np.int64)
            if len(places) == site.size(right):
                yield Pairs(left, places, right, np.arange(len(places)))
                continue
        yield from site.freeze((left, right), FreezeCode.COMPUTED_PLACES)


def resize_slice(cut: Cut, node: ir.Node) -> None:
    """Write where what is taken lies now; where it lies at no even distance any more, a Gather picks it first."""
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    site = NodeAxes(node)
    rank = len(site.shape(source))
    taken = known_slices(site, rank)
    if taken is None:
        return
    now, picked = dict(taken), dict[int, Indices]()
    for axis, (start, end, step) in taken.items():
        stays = cut.stays(source, axis)
        if stays is None or stays.all():
            continue
        places = np.array(sliced_places(len(stays), start, end, step), np.int64)
        moved: Indices = (np.cumsum(stays) - 1)[places[stays[places]]]
        gaps = set(np.diff(moved).tolist()) or {step}
        if len(gaps) == 1 and len(moved):
            (gap,) = gaps
            last = int(moved[-1]) + (1 if gap > 0 else -1)
            now[axis] = int(moved[0]), last if last >= 0 else -LARGEST[0], gap
        else:
            now[axis] = 0, LARGEST[0], 1
            picked[axis] = moved
    starts, ends, steps = ([numbers[column] for numbers in now.values()] for column in range(3))
    cut.write(node, "starts", 1, starts)
    cut.write(node, "ends", 2, ends)
    if steps != [step for *_, step in taken.values()]:
        if "starts" not in node.attributes and (len(node.inputs) < 4 or node.inputs[3] is None):
            cut.write(node, "axes", 3, list(taken))
        cut.write(node, "steps", 4, steps)
    like = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    kind = np.int64 if like is None else like.dtype
    for axis, moved in picked.items():
        indices = cut.editor.initializer(f"{result.name}_places", moved.astype(kind))
        data = node.inputs[0]
        assert data is not None
        gather = ir.Node("", "Gather", [data, indices], [ir.AttrInt64("axis", axis)], num_outputs=1)
        gather.outputs[0].name = cut.editor.name(f"{result.name}_picked")
        gather.outputs[0].type = source.type
        sizes = [None] * rank if data.shape is None else list(data.shape)
        gather.outputs[0].shape = ir.Shape([*sizes[:axis], len(moved), *sizes[axis + 1 :]])
        cut.editor.graph.insert_before(node, gather)
        node.replace_input_with(0, gather.outputs[0])


# Gather


def gather(site: NodeFacts) -> Fact:
    """Gather: the axes of the indices in the place of one axis."""
    first, shape, places = site.fact(0), site.shape(0), site.shape(1)
    axis = axis_of(read(site, "axis", 0), len(shape))
    elements, indices = first.elements, site.fact(1).elements
    if elements is not None and indices is not None and len(shape) == 1:
        known = range(-len(elements), len(elements))
        elements = tuple(elements[index] if isinstance(index, int) and index in known else None for index in indices)
    else:
        elements = None
    return Fact(first.dtype, (*shape[:axis], *places, *shape[axis + 1 :]), elements)


def gathered_places(node: ir.Node, size: int) -> Indices | None:
    """Return the places that a Gather takes of an axis of this size; None where they are computed, or no vector."""
    places = constant(node.inputs[1])
    return None if places is None or places.ndim != 1 else places.astype(np.int64) % max(size, 1)


def relate_gather(site: NodeAxes) -> Iterator[Relation]:
    """Yield which places are picked of one axis; the others are one, and so are those of indices that are computed."""
    source, result = site.source_and_result()
    indices = site.axes(site.node.inputs[1])
    axis = axis_of(read(site, "axis"), len(source))
    if len(result) != len(source) - 1 + len(indices):
        raise Unknowable
    behind = axis + len(indices)
    yield from equal_axes((*source[:axis], *source[axis + 1 :]), (*result[:axis], *result[behind:]))
    size = site.size(source[axis])
    places = None if size is None else gathered_places(site.node, size)
    if places is not None:
        yield Pairs(source[axis], places, result[axis], np.arange(len(places)))
        yield from site.freeze_settings()
        return
    yield from site.freeze((source[axis],), FreezeCode.LOOKED_UP)
    yield from equal_axes(indices, result[axis:behind])


def resize_gather(cut: Cut, node: ir.Node) -> None:
    """Write where the places that are picked lie now."""
    site = NodeAxes(node)
    axis = axis_of(read(site, "axis"), len(site.shape(node.inputs[0])))
    stays = cut.stays(node.inputs[0], axis)
    places = None if stays is None else gathered_places(node, len(stays))
    left = None if places is None else cut.stays(node.outputs[0], axis)
    if places is not None and stays is not None and left is not None:
        cut.write(node, "indices", 1, (np.cumsum(stays) - 1)[places][left].tolist())


def gather_elements(site: NodeFacts) -> Fact:
    """GatherElements: as large as the indices."""
    return Fact(site.fact(0).dtype, site.shape(1))


def relate_elementwise(site: NodeAxes) -> Iterator[Relation]:
    """Yield that data and indices lie side by side, but for the axis that is picked along."""
    axis = read(site, "axis")
    operands = [site.axes(value) for value in (*site.node.inputs, site.node.outputs[0])]
    if len({len(axes) for axes in operands}) > 1:
        raise Unknowable
    for index, first in enumerate(operands[0]):
        for axes in operands:
            if index == axis % len(operands[0]):
                yield from site.freeze((axes[index],), FreezeCode.LOOKED_UP)
            else:
                yield Equal(first, axes[index])


def gather_nd(site: NodeFacts) -> Fact:
    """GatherND: the last axis of the indices says where, the others remain."""
    shape, places = site.shape(0), site.shape(1)
    depth = places[-1]
    if not isinstance(depth, int):
        raise Unknowable
    return Fact(site.fact(0).dtype, (*places[:-1], *shape[read(site, "batch_dims", 0) + depth :]))


def relate_gather_nd(site: NodeAxes) -> Iterator[Relation]:
    """Yield that the axes of the data that the tuples of indices do not reach follow; the others are looked up in."""
    source, result = site.source_and_result()
    indices = site.axes(site.node.inputs[1])
    batch = read(site, "batch_dims", 0)
    length = site.size(indices[-1]) if indices else None
    if length is None:
        raise Unknowable
    yield from site.freeze((*source[: batch + length], indices[-1]), FreezeCode.LOOKED_UP)
    yield from equal_axes((*indices[:-1], *source[batch + length :]), result)
    yield from equal_axes(source[:batch], result[:batch])


def relate_scatter_nd(site: NodeAxes) -> Iterator[Relation]:
    """Yield that what the tuples of indices do not reach is one in data, updates and result.

    Which updates there are says which places are overwritten: an update of 0 is not the same as none.
    """
    source, result = site.source_and_result()
    indices, updates = site.axes(site.node.inputs[1]), site.axes(site.node.inputs[2])
    length = site.size(indices[-1]) if indices else None
    if length is None:
        raise Unknowable
    written = len(indices) - 1
    yield from equal_axes(source, result)
    yield from site.freeze((*source[:length], *indices, *updates[:written]), FreezeCode.SCATTERED)
    yield from equal_axes(source[length:], updates[written:])


def relate_tensor_scatter(site: NodeAxes) -> Iterator[Relation]:
    """Yield that cache, update and result lie side by side but for the axis of time; indices are of the batch."""
    cache, result = site.source_and_result()
    time = axis_of(read(site, "axis"), len(cache))
    for old, new, made in zip(cache, site.axes(site.node.inputs[1]), result, strict=True):
        if old.position == time:
            yield from site.freeze((old, new, made), FreezeCode.SCATTERED)
        else:
            yield Equal(old, new)
            yield Equal(old, made)
    if site.has(2):
        (batch,) = site.axes(site.node.inputs[2])
        yield Equal(batch, cache[0])


# Orders along an axis


def top_k(site: NodeFacts) -> tuple[Fact, ...]:
    """TopK: the axis becomes as long as k."""
    first, shape = site.fact(0), site.shape()
    axis = axis_of(read(site, "axis", -1), len(shape))
    counts = entries(site, "k", 1)
    count = counts[0] if counts is not None and len(counts) == 1 else None
    sizes = [count if isinstance(count, (int, Expression)) else site.unknown(axis, output) for output in range(2)]
    values, places = ((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)
    return (Fact(first.dtype, values), Fact(ir.DataType.INT64, places))


def relate_ordered(site: NodeAxes) -> Iterator[Relation]:
    """Yield that places have an order along one axis (CumSum, TopK); the others are one in all outputs."""
    source, _ = site.source_and_result()
    yield from site.freeze_settings()
    axis = read(site, "axis")
    if axis is None:
        axis = (site.elements(1) or (None,))[0]
    if not isinstance(axis, int):
        yield from site.freeze_node(FreezeCode.COMPUTED_AXIS)
        return
    for output in site.node.outputs:
        result = site.axes(output) if output.name and site.shape_of(output) is not None else ()
        for left, right in zip(source, result, strict=False):
            if left.position == axis % len(source):
                yield from site.freeze((left, right), FreezeCode.ORDERED)
            else:
                yield Equal(left, right)


ALONG_AXIS = {1: IndexInto(0, 0, "axis")}
TUPLES = {1: IndexInto(0)}

OPS = {
    ("", "Slice"): Op(slice_, relate_slice, resize_slice),
    ("", "Gather"): Op(gather, relate_gather, resize_gather, indices=ALONG_AXIS),
    ("", "GatherElements"): Op(gather_elements, relate_elementwise, indices=ALONG_AXIS),
    ("", "GatherND"): Op(gather_nd, relate_gather_nd, indices=TUPLES),
    ("", "Scatter"): Op(unary(), relate_elementwise, indices=ALONG_AXIS),
    ("", "ScatterElements"): Op(unary(), relate_elementwise, indices=ALONG_AXIS),
    ("", "ScatterND"): Op(unary(), relate_scatter_nd, indices=TUPLES),
    ("ai.onnx.ml", "ArrayFeatureExtractor"): Op(indices={1: IndexInto(0, -1)}),
    ("com.microsoft", "GatherBlockQuantized"): Op(indices={1: IndexInto(0, 0, "gather_axis")}),
    ("", "TensorScatter"): Op(unary(), relate_tensor_scatter),
    ("", "CumSum"): Op(unary(), relate_ordered),
    ("", "TopK"): Op(top_k, relate_ordered),
}
