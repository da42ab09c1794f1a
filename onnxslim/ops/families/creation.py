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
from onnxslim.ops.symbols import Expression, Size, product


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
        if taken is not None:
            return {entries[place] for place in sliced_places(len(entries), *taken[0])} if taken else set(entries)
    return set(entries)


def size(site: NodeFacts) -> Fact:
    """Size: the number of elements."""
    fact = site.fact(0)
    return Fact(ir.DataType.INT64, (), None if fact.shape is None else (product(fact.shape),))


def constant(site: NodeFacts) -> Fact:
    """Constant: what its attribute says."""
    (held,) = site.node.attributes.values()
    if held.is_ref() or held.type is ir.AttributeType.SPARSE_TENSOR:
        raise Unknowable
    return of_tensor(ir.convenience.get_const_tensor(site.node.outputs[0]))


def constant_of_shape(site: NodeFacts) -> Fact:
    """ConstantOfShape: as large as told."""
    value = read(site, "value")
    kind = ir.DataType.FLOAT if value is None else value.dtype
    told = site.elements(0)
    if told is None:
        length = site.shape(0)[0]
        return Fact(kind, site.unknowns(length) if isinstance(length, int) else None)
    sizes = tuple(
        site.unknown(axis) if each is None or isinstance(each, float) else each for axis, each in enumerate(told)
    )
    elements: tuple[Element, ...] | None = None
    if len(sizes) < 2 and all(isinstance(each, int) and each <= MOST_ELEMENTS for each in sizes):
        one = (0,) if value is None else elements_of(value.numpy()) if kind in READ else (None,)
        elements = one * int(product(sizes))  # type: ignore[arg-type]  # of ints
    return Fact(kind, sizes, elements)


def relate_filled(site: NodeAxes) -> Iterator[Relation]:
    """Yield which lengths are computed."""
    yield from site.freeze_settings(0)
    yield from freeze_computed(site, "shape", 0)


def fill_of(node: ir.Node) -> float:
    """Return the number that a ConstantOfShape puts everywhere."""
    value = read(NodeAxes(node), "value")
    return 0.0 if value is None else float(value.numpy().ravel()[0])


def range_(site: NodeFacts) -> Fact:
    """Range: as many steps as there are from start to limit."""
    kind = site.fact(0).dtype
    found = [site.elements(index) for index in range(3)]
    if any(each is None or len(each) != 1 for each in found):
        return Fact(kind, site.unknowns(1))
    start, limit, delta = (each[0] for each in found if each is not None)
    if not all(isinstance(each, (int, Expression)) for each in (start, limit)) or not isinstance(delta, int):
        return Fact(kind, site.unknowns(1))
    distance: Size = limit - start  # type: ignore[operator, assignment]  # neither float nor None
    if delta == 0:
        raise ValueError("a Range of steps of 0")
    count = maximum(0, floordiv(distance + (delta - (1 if delta > 0 else -1)), delta))
    elements = None
    if isinstance(count, int) and count <= MOST_ELEMENTS and kind in INTEGERS:
        elements = tuple(start + delta * step for step in range(count))  # type: ignore[operator]
    return Fact(kind, (count,), elements)


def random(site: NodeFacts) -> Fact:
    """RandomNormal, RandomUniform: shape and type are attributes."""
    return Fact(ir.DataType(read(site, "dtype", 1)), tuple(read(site, "shape")))


def random_like(site: NodeFacts) -> Fact:
    """RandomNormalLike, EyeLike and others: shaped like the input, and typed like it unless told otherwise."""
    told = read(site, "dtype")
    return Fact(site.fact(0).dtype if told is None else ir.DataType(told), site.fact(0).shape)


def non_zero(site: NodeFacts) -> Fact:
    """NonZero: a column for each place that is not zero."""
    return Fact(ir.DataType.INT64, (max(1, len(site.shape())), site.unknown(1)))


def one_hot(site: NodeFacts) -> Fact:
    """OneHot: an axis as long as the depth, among those of the indices."""
    indices, kind = list(site.shape(0)), site.fact(2).dtype
    axis = read(site, "axis", -1)
    depth = site.elements(1)
    at = axis + len(indices) + 1 if axis < 0 else axis
    known = depth[0] if depth is not None and len(depth) == 1 else None
    indices.insert(at, site.unknown(at) if known is None or isinstance(known, float) else known)
    return Fact(kind, tuple(indices))


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
