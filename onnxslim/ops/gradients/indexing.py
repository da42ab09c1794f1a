"""Gradients of ops that pick places and write them: what was picked is put back, places picked twice add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.constants import constant
from onnxslim.ops.fact import Unknowable, axis_of
from onnxslim.ops.families.indexing import known_slices, sliced_places
from onnxslim.ops.gradient import Gradient, GradientSite, Shape, static_shape
from onnxslim.ops.gradients.movement import Gradients, reversed_along
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName

WIDEST = 8
"""How much longer an axis may be than the list of places that a constant Gather takes of it, for the list to be turned
round: it is as long as the axis."""


def sliced(site: GradientSite) -> Gradients:
    """Slice: the places between are zeros."""
    shape = site.shape()
    taken = known_slices(site, len(shape))
    if taken is None:
        raise Unknowable
    places = {axis: sliced_places(shape[axis], *numbers) for axis, numbers in taken.items()}
    return {0: spread(site, site.incoming(), places, shape)}


def spread(site: GradientSite, value: ir.Value, places: Mapping[int, range], shape: Sequence[int]) -> ir.Value:
    """Return zeros of a shape with `value` at these places of some axes."""
    own = static_shape(value)
    if 0 in own:
        return site.filled(shape, 0, site.dtype)
    value = reversed_along(site, value, [axis for axis, taken in places.items() if taken.step < 0 and len(taken) > 1])
    starts = {axis: min(taken[0], taken[-1]) for axis, taken in places.items()}
    steps = {axis: abs(taken.step) for axis, taken in places.items() if len(taken) > 1 and abs(taken.step) > 1}
    if steps:
        apart, behind = [], []
        for axis, size in enumerate(own):
            apart += [size, 1] if axis in steps else [size]
            behind += [0, steps[axis] - 1] if axis in steps else [0]
        value = site.padded(site.reshape(value, apart), [0] * len(apart), behind)
        own = tuple(size * steps.get(axis, 1) for axis, size in enumerate(own))
        value = site.reshape(value, own)
    before = [starts.get(axis, 0) for axis in range(len(own))]
    return site.padded(value, before, [whole - low - size for whole, low, size in zip(shape, before, own, strict=True)])


def gathered(site: GradientSite) -> Gradients:
    """Gather: the rows that were looked up; what was looked up twice adds up."""
    shape = site.shape()
    axis = axis_of(read(site, "axis"), len(shape))
    indices, outer, inner = site.operand(1), shape[:axis], shape[axis + 1 :]
    count = math.prod(static_shape(indices))
    incoming = site.reshape(site.incoming(), (*outer, count, *inner))
    places = constant(indices)
    if places is not None and count:
        put = put_back(site, incoming, axis, places.reshape(-1).astype(np.int64) % shape[axis], shape)
        if put is not None:
            return {0: put}
    if not any(size != 1 for size in outer):
        rows = site.reshape(_int64(site, indices), (count, 1))
        zeros = site.filled((shape[axis], *inner), 0, site.dtype)
        found = site.op("ScatterND", zeros, rows, site.reshape(incoming, (count, *inner)), reduction="add")
        return {0: site.reshape(found, shape)}
    folded = (math.prod(outer), count, math.prod(inner))
    where = site.op("Expand", site.reshape(indices, (1, count, 1)), list(folded))
    zeros = site.filled((folded[0], shape[axis], folded[2]), 0, site.dtype)
    found = site.op("ScatterElements", zeros, where, site.reshape(incoming, folded), axis=1, reduction="add")
    return {0: site.reshape(found, shape)}


def put_back(site: GradientSite, value: ir.Value, axis: int, places: Array, shape: Shape) -> ir.Value | None:
    """Return zeros of a shape with the places of one axis of `value` at other ones, all different and known; None
    where some are the same, or few of many."""
    size, count = shape[axis], len(places)
    step = int(places[1] - places[0]) if count > 1 else 1
    run = range(int(places[0]), int(places[0]) + step * count, step) if step else range(0)
    if np.array_equal(places, run):
        return spread(site, value, {axis: run}, shape)
    if size > WIDEST * count or len(np.unique(places)) < count:
        return None
    sources = np.full(size, count, np.int64)
    sources[places] = np.arange(count)
    if count < size:  # one more place, of zeros, for all that are not taken
        after = [int(place == axis) for place in range(len(shape))]
        value = site.padded(value, [0] * len(shape), after)
    return site.op("Gather", value, sources, axis=axis)


def gathered_elements(site: GradientSite) -> Gradients:
    """GatherElements: each element back to its place; those that were picked twice add up."""
    return {0: _scattered(site, site.operand(1), site.incoming(), read(site, "axis"))}


def gathered_tuples(site: GradientSite) -> Gradients:
    """GatherND: each slice back to its place; those that were picked twice add up."""
    indices = site.operand(1)
    batch = read(site, "batch_dims")
    if batch:
        shape = static_shape(indices)
        grid = [_counted(site, axis, shape[:-1]) for axis in range(batch)]
        indices = site.op("Concat", *grid, indices, axis=-1)
    return {0: site.op("ScatterND", site.zeros(site.operand()), indices, site.incoming(), reduction="add")}


def _counted(site: GradientSite, axis: int, shape: Shape) -> ir.Value:
    """Return the place along one axis of each element of a shape, and a last axis of size 1."""
    numbers = site.op("Range", *(np.asarray(number, np.int64) for number in (0, shape[axis], 1)))
    ones = [shape[axis] if place == axis else 1 for place in range(len(shape))]
    return site.op("Expand", site.reshape(numbers, (*ones, 1)), [*shape, 1])


def best(site: GradientSite) -> Gradients:
    """TopK: the values go back to where they were; indices have no gradient."""
    if site.upstream[0] is None:
        return {}
    zeros = site.zeros(site.operand())
    return {0: site.op("ScatterElements", zeros, site.result(1), site.incoming(), axis=read(site, "axis"))}


def one_hot(site: GradientSite) -> Gradients:
    """OneHot: each of its two values gets the sum over the places where it stands."""
    incoming = site.incoming()
    marks = site.build.constant(np.array([0, 1], site.dtype.numpy()))
    hot = site.op("OneHot", site.operand(0), site.operand(1), marks, axis=read(site, "axis"))
    axes = list(range(len(static_shape(incoming))))
    on = site.sum(site.op("Mul", incoming, hot), axes)
    off = site.sum(site.op("Mul", incoming, site.op("Sub", 1.0, hot)), axes)
    parts = [site.op("Reshape", part, [1]) for part in (off, on)]
    return {2: site.op("Concat", *parts, axis=0)}


def _scattered(site: GradientSite, indices: ir.Value, value: ir.Value, axis: int) -> ir.Value:
    zeros = site.zeros(site.operand())
    return site.op("ScatterElements", zeros, indices, value, axis=axis, reduction="add")


def _int64(site: GradientSite, indices: ir.Value) -> ir.Value:
    wide = indices.dtype is ir.DataType.INT64
    return indices if wide else site.op("Cast", indices, to=int(ir.DataType.INT64))


GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "Slice"): sliced,
    ("", "Gather"): gathered,
    ("", "GatherElements"): gathered_elements,
    ("", "GatherND"): gathered_tuples,
    ("", "TopK"): best,
    ("", "OneHot"): one_hot,
}
