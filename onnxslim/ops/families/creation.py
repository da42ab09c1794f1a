"""Ops that make tensors of shapes, of numbers, or of nothing; Shape and Size are where sizes become elements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant as constant_value
from onnxslim.ops.arithmetic import floordiv, maximum
from onnxslim.ops.fact import (
    INTEGERS,
    MOST_ELEMENTS,
    READ,
    Element,
    Fact,
    NodeFacts,
    Unknowable,
    elements_of,
    of_tensor,
)
from onnxslim.ops.families.indexing import known_slices, sliced_places
from onnxslim.ops.families.movement import freeze_computed
from onnxslim.ops.op import Constancy, IndexInto, Op
from onnxslim.ops.parameters import op_of, read
from onnxslim.ops.relations import Axis, FreezeCode, NodeAxes, Relation
from onnxslim.ops.symbols import Expression, product


def shape(site: NodeFacts) -> Fact:
    """Shape: the sizes, of the axes from start to end."""
    fact = site.fact(0)
    if fact.shape is None:
        return Fact(ir.DataType.INT64, (site.unknown(0),))
    sizes = fact.shape[read(site, "start", 0) : read(site, "end")]
    return Fact(ir.DataType.INT64, (len(sizes),), sizes)


def relate_shape(site: NodeAxes) -> Iterator[Relation]:
    """Yield which sizes are read: one that flows into arithmetic must stay what it was."""
    node = site.node
    source, result = node.inputs[0], node.outputs[0]
    yield from site.freeze_values((result,), FreezeCode.PLACES_IN_SHAPE)
    shape = None if source is None else site.shape_of(source)
    if source is None or shape is None:
        return
    entries = range(len(shape))[read(site, "start") : read(site, "end")]
    read_entries: set[int] = set(range(len(shape))) if result.is_graph_output() else set()
    for use in result.uses():
        read_entries |= _entries_read(use.node, use.idx, entries)
    yield from site.freeze((Axis(source, index) for index in read_entries), FreezeCode.SIZE_READ)


def _entries_read(node: ir.Node, index: int, entries: range) -> set[int]:
    if op_of(node) == ("", "Gather") and index == 0:
        places = constant_value(node.inputs[1])
        if places is not None:
            return {entries[int(place)] for place in places.ravel()}
    if op_of(node) == ("", "Slice") and index == 0:
        taken = known_slices(NodeAxes(node), 1)
        if taken:
            return {entries[place] for place in sliced_places(len(entries), *taken[0])}
    return set(entries)


def size(site: NodeFacts) -> Fact:
    """Size: the number of elements."""
    shape = site.fact(0).shape
    return Fact(ir.DataType.INT64, (), None if shape is None else (product(shape),))


def constant(site: NodeFacts) -> Fact:
    """Constant: what its attribute says."""
    (attribute,) = site.node.attributes.values()
    if attribute.is_ref() or attribute.type is ir.AttributeType.SPARSE_TENSOR:
        raise Unknowable
    return of_tensor(ir.convenience.get_const_tensor(site.node.outputs[0]))


def constant_of_shape(site: NodeFacts) -> Fact:
    """ConstantOfShape: as large as told."""
    value = read(site, "value")
    kind = ir.DataType.FLOAT if value is None else value.dtype
    target = site.elements(0)
    if target is None:
        length = site.shape(0)[0]
        return Fact(kind, site.unknowns(length) if isinstance(length, int) else None)
    sizes = tuple(
        size if isinstance(size, (int, Expression)) else site.unknown(axis) for axis, size in enumerate(target)
    )
    elements: tuple[Element, ...] | None = None
    if len(sizes) < 2 and all(isinstance(size, int) and size <= MOST_ELEMENTS for size in sizes):
        one = (0,) if value is None else elements_of(value.numpy()) if kind in READ else (None,)
        elements = one * int(product(sizes))  # type: ignore[arg-type]  # of ints
    return Fact(kind, sizes, elements)


def relate_filled(site: NodeAxes) -> Iterator[Relation]:
    """Yield which lengths are computed."""
    yield from site.freeze_settings(0)
    yield from freeze_computed(site, 0)


def fill_of(node: ir.Node) -> float:
    """Return the number that a ConstantOfShape puts everywhere."""
    value = read(NodeAxes(node), "value")
    return 0.0 if value is None else float(value.numpy().ravel()[0])


def range_(site: NodeFacts) -> Fact:
    """Range: as many steps as there are from start to limit."""
    kind = site.fact(0).dtype
    numbers = [site.elements(index) for index in range(3)]
    start, limit, delta = (None if number is None or len(number) != 1 else number[0] for number in numbers)
    if not (isinstance(start, (int, Expression)) and isinstance(limit, (int, Expression)) and isinstance(delta, int)):
        return Fact(kind, site.unknowns(1))
    distance = limit - start
    if delta == 0:
        raise ValueError("a Range of steps of 0")
    count = maximum(0, floordiv(distance + (delta - (1 if delta > 0 else -1)), delta))
    elements = None
    if isinstance(count, int) and count <= MOST_ELEMENTS and kind in INTEGERS:
        elements = tuple(start + delta * step for step in range(count))
    return Fact(kind, (count,), elements)


def random(site: NodeFacts) -> Fact:
    """RandomNormal, RandomUniform: shape and type are attributes."""
    return Fact(ir.DataType(read(site, "dtype", 1)), tuple(read(site, "shape")))


def random_like(site: NodeFacts) -> Fact:
    """RandomNormalLike, EyeLike and others: shaped like the input, and typed like it unless told otherwise."""
    dtype = read(site, "dtype")
    return Fact(site.fact(0).dtype if dtype is None else ir.DataType(dtype), site.fact(0).shape)


def non_zero(site: NodeFacts) -> Fact:
    """NonZero: a column for each place that is not zero."""
    return Fact(ir.DataType.INT64, (max(1, len(site.shape())), site.unknown(1)))


def one_hot(site: NodeFacts) -> Fact:
    """OneHot: an axis as long as the depth, among those of the indices."""
    shape, depths = list(site.shape(0)), site.elements(1)
    axis = read(site, "axis", -1)
    axis = axis + len(shape) + 1 if axis < 0 else axis
    depth = depths[0] if depths is not None and len(depths) == 1 else None
    shape.insert(axis, depth if isinstance(depth, (int, Expression)) else site.unknown(axis))
    return Fact(site.fact(2).dtype, tuple(shape))


def largest_range(arrays: Sequence[npt.NDArray[Any]]) -> float:
    """Return the steps from start to limit."""
    start, limit, delta = (float(array.reshape(-1)[0]) for array in arrays)
    return math.ceil((limit - start) / delta)


def largest_non_zero(arrays: Sequence[npt.NDArray[Any]]) -> float:
    """Return the numbers that say where all elements are."""
    return float(arrays[0].size * max(1, arrays[0].ndim))


OPS = {
    ("", "Shape"): Op(shape, relate_shape),
    ("", "Size"): Op(size, relate_shape),
    ("", "Constant"): Op(constant),
    ("", "ConstantOfShape"): Op(
        constant_of_shape, relate_filled, constancy=lambda _: Constancy.KEPT, shape_input=0, fill=fill_of
    ),
    ("", "Range"): Op(range_, largest=largest_range),
    ("", "RandomNormal"): Op(random),
    ("", "RandomUniform"): Op(random),
    ("", "RandomNormalLike"): Op(random_like),
    ("", "RandomUniformLike"): Op(random_like),
    ("", "Bernoulli"): Op(random_like),
    ("", "EyeLike"): Op(random_like),
    ("", "NonZero"): Op(non_zero, largest=largest_non_zero),
    ("", "OneHot"): Op(one_hot, indices={0: IndexInto(1, by_value=True)}),
}
