"""Ops that make tensors of shapes, of numbers, or of nothing; Shape and Size are where sizes become elements."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxslim.ops.arithmetic import floordiv, maximum
from onnxslim.ops.fact import INTEGERS, MOST_ELEMENTS, Element, Fact, NodeFacts, ShapeRule, Unknowable
from onnxslim.ops.symbols import Expression, Size, product

EXACT_FLOATS = 1 << 24
"""Whole floats up to here are exact in float32."""


def shape(site: NodeFacts) -> Fact:
    """Shape: the sizes, of the axes from start to end."""
    fact = site.fact(0)
    if fact.shape is None:
        return Fact(ir.DataType.INT64, (site.unknown(0),))
    sizes = fact.shape[site.attribute("start", 0) : site.attribute("end")]
    return Fact(ir.DataType.INT64, (len(sizes),), sizes)


def size(site: NodeFacts) -> Fact:
    """Size: the number of elements."""
    fact = site.fact(0)
    return Fact(ir.DataType.INT64, (), None if fact.shape is None else (product(fact.shape),))


def of_tensor(tensor: ir.TensorProtocol | None) -> Fact:
    """Return what is known of a constant."""
    if tensor is None:
        return Fact()
    sizes = tuple(int(each) for each in tensor.shape)  # type: ignore[arg-type]  # tensors have no symbolic sizes
    elements = None
    if len(sizes) < 2 and math.prod(sizes) <= MOST_ELEMENTS and tensor.dtype in READ:
        elements = elements_of(tensor.numpy())
    return Fact(tensor.dtype, sizes, elements)


READ = INTEGERS | {ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16}


def elements_of(array: np.typing.NDArray[np.generic]) -> tuple[Element, ...]:
    """Return the elements of an array; whole floats and booleans are ints."""
    items = array.ravel().tolist()
    if array.dtype.kind != "f":
        return tuple(int(item) for item in items)
    return tuple(int(x) if abs(x) <= EXACT_FLOATS and x == int(x) else x if math.isfinite(x) else None for x in items)


def constant(site: NodeFacts) -> Fact:
    """Constant: what its attribute says."""
    (held,) = site.node.attributes.values()
    if held.is_ref() or held.type is ir.AttributeType.SPARSE_TENSOR:
        raise Unknowable
    return of_tensor(ir.convenience.get_const_tensor(site.node.outputs[0]))


def constant_of_shape(site: NodeFacts) -> Fact:
    """ConstantOfShape: as large as told."""
    value = site.attribute("value")
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
    return Fact(ir.DataType(site.attribute("dtype", 1)), tuple(site.attribute("shape")))


def random_like(site: NodeFacts) -> Fact:
    """RandomNormalLike, EyeLike and others: shaped like the input, and typed like it unless told otherwise."""
    told = site.attribute("dtype")
    return Fact(site.fact(0).dtype if told is None else ir.DataType(told), site.fact(0).shape)


def non_zero(site: NodeFacts) -> Fact:
    """NonZero: a column for each place that is not zero."""
    return Fact(ir.DataType.INT64, (max(1, len(site.shape())), site.unknown(1)))


def one_hot(site: NodeFacts) -> Fact:
    """OneHot: an axis as long as the depth, among those of the indices."""
    indices, kind = list(site.shape(0)), site.fact(2).dtype
    axis = site.attribute("axis", -1)
    depth = site.elements(1)
    at = axis + len(indices) + 1 if axis < 0 else axis
    known = depth[0] if depth is not None and len(depth) == 1 else None
    indices.insert(at, site.unknown(at) if known is None or isinstance(known, float) else known)
    return Fact(kind, tuple(indices))


RULES: dict[tuple[str, str], ShapeRule] = {
    ("", "Shape"): shape,
    ("", "Size"): size,
    ("", "Constant"): constant,
    ("", "ConstantOfShape"): constant_of_shape,
    ("", "Range"): range_,
    ("", "RandomNormal"): random,
    ("", "RandomUniform"): random,
    ("", "RandomNormalLike"): random_like,
    ("", "RandomUniformLike"): random_like,
    ("", "Bernoulli"): random_like,
    ("", "EyeLike"): random_like,
    ("", "NonZero"): non_zero,
    ("", "OneHot"): one_hot,
}
"""The rules of this theme, by domain and op."""
