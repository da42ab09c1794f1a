"""Draws nodes that move, pick or stretch elements, of any operator set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from op_draw import Case, Draw, attribute_or_input

f32, i64 = np.float32, np.int64
Array = np.ndarray[Any, np.dtype[Any]]


FAR = [9, -9, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 10**9]


def transpose(draw: Draw) -> Case:
    shape = draw.shape()
    order = {} if draw.chance(0.2) else {"perm": draw.random.permutation(len(shape)).tolist()}
    return Case(("", "Transpose"), [draw.data(shape)], order)


def _factored(draw: Draw, factors: list[int]) -> list[int]:
    """Return sizes that are products of runs of `factors`."""
    sizes = [1]
    for factor in factors:
        if draw.chance(0.6):
            sizes.append(1)
        sizes[-1] *= factor
    return sizes


def reshape(draw: Draw) -> Case:
    factors = [draw.number(1, 4) for _ in range(draw.number(1, 5))]
    source, target = _factored(draw, factors), _factored(draw, factors)
    told = list(target)
    for place in range(min(len(source), len(target))):
        if source[place] == target[place] and draw.chance(0.3):
            told[place] = 0
    if draw.chance(0.4):
        told[draw.number(0, len(told) - 1)] = -1
    attributes, inputs = attribute_or_input(draw, 5, "shape", told)
    return Case(("", "Reshape"), [draw.data(tuple(source)), *inputs], attributes, frozenset({1}))


def flatten(draw: Draw) -> Case:
    shape = draw.shape()
    axis = draw.number(-len(shape) if draw.opset >= 11 else 0, len(shape))
    return Case(("", "Flatten"), [draw.data(shape)], {} if draw.chance(0.2) else {"axis": axis})


def squeeze(draw: Draw) -> Case:
    shape = tuple(draw.one_of([1, 1, 2, 3]) for _ in range(draw.number(1, 5)))
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    chosen = [axis - len(shape) if draw.opset >= 11 and draw.chance() else axis for axis in ones if draw.chance(0.7)]
    attributes, inputs = attribute_or_input(draw, 13, "axes", chosen) if chosen and draw.chance(0.8) else ({}, [])
    return Case(("", "Squeeze"), [draw.data(shape), *inputs], attributes, frozenset({1}))


def unsqueeze(draw: Draw) -> Case:
    shape = draw.shape(0, 3)
    rank = len(shape) + draw.number(1, 3)
    axes = sorted(draw.random.permutation(rank)[: rank - len(shape)].tolist())
    axes = [axis - rank if draw.opset >= 11 and draw.chance() else axis for axis in axes]
    attributes, inputs = attribute_or_input(draw, 13, "axes", axes)
    return Case(("", "Unsqueeze"), [draw.data(shape), *inputs], attributes, frozenset({1}))


def concat(draw: Draw) -> Case:
    if draw.chance(0.3):
        parts = [draw.shape_like() for _ in range(draw.number(1, 3))]
        return Case(("", "Concat"), list(parts), {"axis": 0}, frozenset({0, 2}))
    shape = draw.shape()
    axis = draw.axis(len(shape))
    shapes = [list(shape) for _ in range(draw.number(1, 3))]
    for part in shapes:
        part[axis] = draw.number(1, 4)
    return Case(("", "Concat"), [draw.data(tuple(part)) for part in shapes], {"axis": axis})


def split(draw: Draw) -> Case:
    count = draw.number(1, 3)
    shape = list(draw.shape())
    axis = draw.axis(len(shape))
    lengths = [draw.number(1, 3) for _ in range(count)]
    even = draw.chance(0.4)
    shape[axis] = lengths[0] * count if even else sum(lengths)
    attributes, inputs = ({}, []) if even else attribute_or_input(draw, 13, "split", lengths)
    if even and draw.opset >= 18:
        attributes["num_outputs"] = count
        shape[axis] = max(count, draw.number(1, 9)) if count < 3 else shape[axis]
    source = draw.data(tuple(shape)) if len(shape) > 1 else np.arange(shape[0], dtype=i64)
    fixed = frozenset({0, 1} if len(shape) == 1 else {1})
    return Case(("", "Split"), [source, *inputs], {**attributes, "axis": axis}, fixed, (True,) * count)


def slice_(draw: Draw) -> Case:
    shape = draw.shape(most=7)
    source = draw.data(shape) if draw.chance(0.7) else draw.shape_like()
    named = draw.axes(source.ndim)
    numbers = [*range(-8, 9), *FAR]
    starts, ends = ([draw.one_of(numbers) for _ in named] for _ in range(2))
    if draw.opset < 10:
        numbers = {"starts": starts, "ends": ends}
        axes = {} if draw.chance(0.2) else {"axes": [axis % source.ndim for axis in named]}
        return Case(("", "Slice"), [source], {**numbers, **axes}, frozenset({0} if source.ndim == 1 else ()))
    steps = [draw.one_of([1, 1, 1, 2, 3, -1, -2, -3, 2**31 - 1]) for _ in named]
    inputs: list[Array | None] = [source, draw.vector(*starts), draw.vector(*ends)]
    if draw.chance(0.8):
        inputs += [draw.vector(*named) if draw.chance(0.8) else None, draw.vector(*steps)][: draw.number(1, 2)]
    known = draw.chance(0.3) and source.ndim == 1
    return Case(("", "Slice"), inputs, {}, frozenset({1, 2, 3, 4} | ({0} if known else set())))


def gather(draw: Draw) -> Case:
    source = draw.data(draw.shape()) if draw.chance(0.7) else draw.shape_like()
    axis = draw.axis(source.ndim)
    size = source.shape[axis]
    low = -size if draw.opset >= 11 else 0
    indices = np.asarray(draw.random.integers(low, size, draw.shape(0, 2, 1, 4)), draw.one_of([i64, np.int32]))
    fixed = {1} if draw.chance(0.7) else set()
    attributes = {} if axis == 0 and draw.chance() else {"axis": axis}
    return Case(("", "Gather"), [source, indices], attributes, frozenset(fixed | ({0} if source.ndim == 1 else set())))


def beside(draw: Draw, op_type: str, updates: bool) -> Case:
    shape = draw.shape()
    axis = draw.axis(len(shape))
    picked = [draw.number(1, size) for size in shape]
    low = -shape[axis] if draw.opset >= 11 else 0
    if updates:
        picked = [1 if at == axis % len(shape) else size for at, size in enumerate(picked)]  # no place twice
    indices = np.asarray(draw.random.integers(low, shape[axis], picked), i64)
    operands: list[Array | None] = [draw.data(shape), indices]
    return Case(("", op_type), operands + [draw.data(tuple(picked))] * updates, {"axis": axis}, frozenset({1}))


def gather_nd(draw: Draw) -> Case:
    shape = draw.shape(2, 4)
    batch = draw.number(0, len(shape) - 1) if draw.opset >= 12 else 0
    length = draw.number(1, len(shape) - batch)
    outer = [*shape[:batch], *draw.shape(1 if batch == 0 else 0, 2, 1, 3)]
    indices = np.stack([draw.random.integers(0, size, outer) for size in shape[batch : batch + length]], -1)
    attributes = {"batch_dims": batch} if batch else {}
    return Case(("", "GatherND"), [draw.data(shape), np.asarray(indices, i64)], attributes, frozenset({1}))


def scatter_nd(draw: Draw) -> Case:
    shape = draw.shape(1, 4)
    length = draw.number(1, len(shape))
    count = draw.number(1, shape[0])
    first = draw.random.permutation(shape[0])[:count]
    rest = [draw.random.integers(0, size, count) for size in shape[1:length]]
    updates = draw.data((count, *shape[length:]))
    return Case(("", "ScatterND"), [draw.data(shape), np.stack([first, *rest], -1), updates], {}, frozenset({1}))


def ordered(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        shape = draw.shape()
        axis = np.array(draw.axis(len(shape)), i64)
        return Case(("", op_type), [draw.data(shape), axis], {"reverse": draw.number(0, 1)}, frozenset({1}))

    return drawn


def top_k(draw: Draw) -> Case:
    shape = draw.shape()
    axis = draw.axis(len(shape))
    count = draw.number(1, shape[axis])
    told = ({}, [draw.vector(count)]) if draw.opset >= 10 else ({"k": count}, [])
    source = draw.random.permutation(int(np.prod(shape))).reshape(shape).astype(f32)  # no two are equal
    return Case(("", "TopK"), [source, *told[1]], {**told[0], "axis": axis}, frozenset({1}), (True, True))


def tensor_scatter(draw: Draw) -> Case:
    shape = draw.shape(3, 4, least=2)
    axis = draw.number(1, len(shape) - 1)
    count = draw.number(1, shape[axis])
    new = tuple(count if at == axis else size for at, size in enumerate(shape))
    indices = np.asarray(draw.random.integers(0, shape[axis] - count + 1, shape[0]), i64)
    attributes = {"axis": axis - len(shape) if draw.chance() else axis, "mode": draw.one_of(["linear", "circular"])}
    operands: list[Array | None] = [draw.data(shape), draw.data(new), indices]
    return Case(("", "TensorScatter"), operands[: draw.number(2, 3)], attributes)


def expand(draw: Draw) -> Case:
    shape = tuple(draw.one_of([1, 1, 2, 3]) for _ in range(draw.number(0, 4)))
    target = [size if size > 1 else draw.number(1, 3) for size in shape]
    target = [1 if draw.chance(0.2) else size for size in target][draw.number(0, 1) :]
    target = [*draw.shape(0, 1), *target] if draw.chance() else target
    return Case(("", "Expand"), [draw.data(shape), draw.vector(*target)], {}, frozenset({1}))


def tile(draw: Draw) -> Case:
    shape = draw.shape()
    repeats = draw.vector(*(draw.number(1, 3) for _ in shape))
    return Case(("", "Tile"), [draw.data(shape), repeats], {}, frozenset({1}))


def pad(draw: Draw) -> Case:
    shape = draw.shape(least=3)
    mode = draw.one_of(["constant", "constant", "constant", "reflect", "edge"])
    axes = draw.axes(len(shape)) if draw.opset >= 18 and draw.chance() else list(range(len(shape)))
    low = -1 if mode == "constant" else 0
    pads = [draw.number(low, 2) if draw.chance() else 0 for _ in range(2 * len(axes))]
    attributes, inputs = attribute_or_input(draw, 11, "pads", pads)
    if draw.opset >= 11 and len(axes) < len(shape):
        inputs += [None, draw.vector(*axes)]
    elif draw.opset >= 11 and draw.chance() and mode == "constant":
        inputs += [np.array(0.5, f32)]
    elif mode == "constant" and draw.opset < 11:
        attributes["value"] = 0.5
    return Case(("", "Pad"), [draw.data(shape), *inputs], {**attributes, "mode": mode}, frozenset({1, 2, 3}))


def resize(draw: Draw) -> Case:
    shape = (draw.number(1, 3), draw.number(1, 4), draw.number(2, 5), draw.number(2, 5))
    scales = [1.0, 1.0, draw.one_of([1.0, 2.0, 0.5, 1.5]), draw.one_of([1.0, 2.0, 3.0, 0.5])]
    attributes: dict[str, Any] = {"mode": draw.one_of(["nearest", "linear"])}
    data, told = draw.data(shape), np.array(scales, f32)
    if draw.opset == 10:
        return Case(("", "Resize"), [data, told], attributes, frozenset({1}))
    region = np.zeros(0, f32) if draw.opset < 13 else None
    if draw.chance() and draw.opset >= 12:
        sizes = draw.vector(*shape[:2], draw.number(1, 9), draw.number(1, 9))
        if draw.opset >= 18 and draw.chance():
            return Case(("", "Resize"), [data, None, None, sizes[2:]], {**attributes, "axes": [2, -1]}, frozenset({3}))
        empty = np.zeros(0, f32) if draw.opset < 13 else None
        return Case(("", "Resize"), [data, region, empty, sizes], attributes, frozenset({1, 2, 3}))
    if draw.opset >= 18 and draw.chance():
        return Case(("", "Resize"), [data, None, told[2:]], {**attributes, "axes": [2, 3]}, frozenset({2}))
    return Case(("", "Resize"), [data, region, told], attributes, frozenset({1, 2}))


def upsample(draw: Draw) -> Case:
    shape = (draw.number(1, 3), draw.number(1, 4), draw.number(2, 4), draw.number(2, 4))
    scales = [1.0, 1.0, draw.one_of([1.0, 2.0]), draw.one_of([2.0, 3.0])]
    if draw.opset < 9:
        return Case(("", "Upsample"), [draw.data(shape)], {"scales": scales, "mode": "nearest"})
    return Case(("", "Upsample"), [draw.data(shape), np.array(scales, f32)], {"mode": "nearest"}, frozenset({1}))
