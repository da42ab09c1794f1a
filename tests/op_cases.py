"""Draws nodes of every structural op, of any operator set: what the proof of the ops is tried on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.defs

from onnxslim.ops.signatures import OpName, signatures
from onnxslim.ops.traits import Trait

Array = np.ndarray[Any, np.dtype[Any]]
f32, i64 = np.float32, np.int64
FAR = [9, -9, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 10**9]


@dataclasses.dataclass
class Case:
    """A node: what it reads, and which of that is a constant of the model."""

    op: OpName
    operands: list[Array | None]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    fixed: frozenset[int] = frozenset()
    outputs: tuple[bool, ...] = (True,)
    """Whether each output is made."""
    stored: bool = False
    """The kernel wants what is constant as initializers."""


class Draw:
    """Draws what a node of an operator set may be like."""

    def __init__(self, random: np.random.Generator, opset: int) -> None:
        self.random = random
        self.opset = opset

    def number(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return int(self.random.integers(low, high + 1))

    def chance(self, share: float = 0.5) -> bool:
        return bool(self.random.random() < share)

    def one_of(self, items: Any) -> Any:
        return items[self.number(0, len(items) - 1)]

    def shape(self, low: int = 1, high: int = 4, least: int = 1, most: int = 5) -> tuple[int, ...]:
        return tuple(self.number(least, most) for _ in range(self.number(low, high)))

    def data(self, shape: tuple[int, ...], kind: Any = f32) -> Array:
        if np.dtype(kind).kind == "f":
            return np.asarray(self.random.random(shape) * 2 + 0.25, kind)
        return np.asarray(self.random.integers(0, 2 if np.dtype(kind).kind == "b" else 7, shape), kind)

    def axis(self, rank: int, since: int = 11) -> int:
        """Return an axis; a negative one only from the operator set `since` on."""
        axis = self.number(0, rank - 1)
        return axis - rank if self.opset >= since and self.chance() else axis

    def axes(self, rank: int, since: int = 11, least: int = 1) -> list[int]:
        chosen = self.random.permutation(rank)[: self.number(least, rank)].tolist()
        return [axis - rank if self.opset >= since and self.chance() else axis for axis in chosen]

    def vector(self, *numbers: int) -> Array:
        return np.array(numbers, i64)

    def shape_like(self) -> Array:
        """Return a vector of small integers, as a shape is."""
        return np.asarray(self.random.integers(1, 9, self.number(1, 5)), i64)


def _told(draw: Draw, since: int, name: str, numbers: list[int]) -> tuple[dict[str, Any], list[Array | None]]:
    """Return integers as an attribute before the operator set `since`, from then on as an input."""
    return ({}, [draw.vector(*numbers)]) if draw.opset >= since else ({name: numbers}, [])


# Movement


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
    attributes, inputs = _told(draw, 5, "shape", told)
    return Case(("", "Reshape"), [draw.data(tuple(source)), *inputs], attributes, frozenset({1}))


def flatten(draw: Draw) -> Case:
    shape = draw.shape()
    axis = draw.number(-len(shape) if draw.opset >= 11 else 0, len(shape))
    return Case(("", "Flatten"), [draw.data(shape)], {} if draw.chance(0.2) else {"axis": axis})


def squeeze(draw: Draw) -> Case:
    shape = tuple(draw.one_of([1, 1, 2, 3]) for _ in range(draw.number(1, 5)))
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    chosen = [axis - len(shape) if draw.opset >= 11 and draw.chance() else axis for axis in ones if draw.chance(0.7)]
    attributes, inputs = _told(draw, 13, "axes", chosen) if chosen and draw.chance(0.8) else ({}, [])
    return Case(("", "Squeeze"), [draw.data(shape), *inputs], attributes, frozenset({1}))


def unsqueeze(draw: Draw) -> Case:
    shape = draw.shape(0, 3)
    rank = len(shape) + draw.number(1, 3)
    axes = sorted(draw.random.permutation(rank)[: rank - len(shape)].tolist())
    axes = [axis - rank if draw.opset >= 11 and draw.chance() else axis for axis in axes]
    attributes, inputs = _told(draw, 13, "axes", axes)
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
    attributes, inputs = ({}, []) if even else _told(draw, 13, "split", lengths)
    if even and draw.opset >= 18:
        attributes["num_outputs"] = count
        shape[axis] = max(count, draw.number(1, 9)) if count < 3 else shape[axis]
    source = draw.data(tuple(shape)) if len(shape) > 1 else np.arange(shape[0], dtype=i64)
    fixed = frozenset({0, 1} if len(shape) == 1 else {1})
    return Case(("", "Split"), [source, *inputs], {**attributes, "axis": axis}, fixed, (True,) * count)


# Indexing


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


def _beside(draw: Draw, op_type: str, updates: bool) -> Case:
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


# Stretching


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
    attributes, inputs = _told(draw, 11, "pads", pads)
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


# Reductions, and what mixes


def reduction(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        attributes: dict[str, Any] = {} if draw.chance(0.3) else {"keepdims": draw.number(0, 1)}
        since = 13 if op_type == "ReduceSum" else 18
        if draw.chance(0.3) and op_type in ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin"):
            told, inputs = _told(draw, since, "axes", [0])
            return Case(("", op_type), [draw.shape_like(), *inputs], {**attributes, **told}, frozenset({0, 1}))
        shape = draw.shape()
        told, inputs = ({}, []) if draw.chance(0.2) else _told(draw, since, "axes", draw.axes(len(shape)))
        if draw.opset >= since and draw.chance(0.2):
            attributes["noop_with_empty_axes"] = draw.number(0, 1)
        return Case(("", op_type), [draw.data(shape), *inputs], {**attributes, **told}, frozenset({1}))

    return drawn


def argument(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        shape = draw.shape()
        attributes = {"axis": draw.axis(len(shape)), "keepdims": draw.number(0, 1)}
        return Case(("", op_type), [draw.data(shape)], {} if draw.chance(0.1) else attributes)

    return drawn


def mixing(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        if op_type == "DynamicQuantizeLinear":
            return Case(("", op_type), [draw.data(draw.shape())], outputs=(True, True, True))
        if op_type == "MeanVarianceNormalization":
            shape = draw.shape(4, 4)
            return Case(("", op_type), [draw.data(shape)], {"axes": draw.axes(4)} if draw.chance(0.7) else {})
        shape = draw.shape(2, 4)
        return Case(("", op_type), [draw.data(shape)], {"axis": draw.axis(len(shape))} if draw.chance(0.8) else {})

    return drawn


# Creation


def shape_(draw: Draw) -> Case:
    source = draw.data(draw.shape(0, 4))
    attributes = {name: draw.number(-5, 5) for name in ("start", "end") if draw.opset >= 15 and draw.chance()}
    return Case(("", "Shape"), [source], attributes)


def filled(draw: Draw) -> Case:
    sizes = draw.vector(*draw.shape(0, 3))
    value = onnx.numpy_helper.from_array(np.array([3], draw.one_of([f32, i64])))
    return Case(("", "ConstantOfShape"), [sizes], {"value": value} if draw.chance(0.7) else {}, frozenset({0}))


def range_(draw: Draw) -> Case:
    kind = draw.one_of([i64, np.int32, f32])
    numbers = [np.array(draw.number(-3, 3), kind) for _ in range(2)]
    step = np.array(draw.one_of([-2, -1, 1, 2, 3]), kind)
    return Case(("", "Range"), [*numbers, step], {}, frozenset({0, 1, 2}))


def one_hot(draw: Draw) -> Case:
    indices = np.asarray(draw.random.integers(0, 3, draw.shape(1, 3)), i64)
    attributes = {"axis": draw.number(-indices.ndim - 1, indices.ndim)} if draw.chance(0.7) else {}
    return Case(("", "OneHot"), [indices, np.array(3, i64), np.array([0, 1], f32)], attributes, frozenset({1}))


def like(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        rank = {"EyeLike": (2, 2)}.get(op_type, (1, 3))
        attributes = {"dtype": int(onnx.TensorProto.DOUBLE)} if draw.chance() and op_type != "NonZero" else {}
        return Case(("", op_type), [np.clip(draw.data(draw.shape(*rank)), 0, 1)], attributes)

    return drawn


def random_shape(op_type: str) -> Callable[[Draw], Case]:
    return lambda draw: Case(("", op_type), [], {"shape": list(draw.shape())})


# Elements by themselves

KINDS = {"And": bool, "Or": bool, "Xor": bool, "Not": bool} | dict.fromkeys(
    ("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), np.uint8
)
COMPUTED = frozenset(
    ("Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
)
"""What is computed of small integers, too."""
TWO = frozenset(op_type for _, op_type in Trait.BROADCASTING.ops) - {"Where"}


def elementwise(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        kind = KINDS.get(op_type, f32)
        integers = draw.opset >= 14 or (op_type not in ("Max", "Min", "Mod") and draw.opset >= 9)
        if op_type in COMPUTED and integers and draw.chance(0.4):
            left = draw.shape_like()
            right = np.asarray(draw.random.integers(1, 9, draw.one_of([(), (1,), left.shape])), i64)
            return Case(("", op_type), [left, right], {}, frozenset({0, 1}) if draw.chance() else frozenset({1}))
        shape = draw.shape()
        other = tuple(1 if draw.chance(0.3) else size for size in shape)[draw.number(0, 1) :]
        if op_type in ("Max", "Mean", "Min", "Sum") and draw.opset < 8:
            other = shape
        if op_type == "Equal" and draw.opset < 11:
            kind = i64
        attributes: dict[str, Any] = {}
        operands: list[Array | None] = [draw.data(shape, kind)]
        if op_type in TWO:
            operands.append(draw.data(other, kind))
        elif op_type == "PRelu":
            operands.append(draw.data((1,) * (len(shape) - 1) + shape[-1:], kind))
        elif op_type == "Where":
            operands = [draw.data(shape, bool), draw.data(other), draw.data(())]
        elif op_type == "Clip" and draw.opset >= 11:
            operands += [np.array(0.5, f32), None if draw.chance() else np.array(1.5, f32)]
        elif op_type == "Cast":
            attributes = {"to": int(draw.one_of([onnx.TensorProto.INT64, onnx.TensorProto.DOUBLE]))}
        elif op_type == "CastLike":
            operands.append(draw.data(draw.shape(), i64))
        if op_type in ("Mod", "BitShift"):
            attributes = {"fmod": 1} if op_type == "Mod" else {"direction": "LEFT"}
        return Case(("", op_type), operands, attributes)

    return drawn


def quantized(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        shape = draw.shape()
        data = draw.data(shape, f32 if op_type == "QuantizeLinear" else np.uint8)
        axis = draw.axis(len(shape))
        along = draw.opset >= 13 and draw.chance(0.6)
        size = (shape[axis],) if along else ()
        scales: list[Array | None] = [draw.data(size), draw.data(size, np.uint8)][: 1 + draw.chance()]
        return Case(("", op_type), [data, *scales], {"axis": axis} if along else {})

    return drawn


DRAWN: dict[OpName, Callable[[Draw], Case]] = {
    ("", "Transpose"): transpose,
    ("", "Reshape"): reshape,
    ("", "Flatten"): flatten,
    ("", "Squeeze"): squeeze,
    ("", "Unsqueeze"): unsqueeze,
    ("", "Concat"): concat,
    ("", "Split"): split,
    ("", "Slice"): slice_,
    ("", "Gather"): gather,
    ("", "GatherElements"): lambda draw: _beside(draw, "GatherElements", False),
    ("", "ScatterElements"): lambda draw: _beside(draw, "ScatterElements", True),
    ("", "Scatter"): lambda draw: _beside(draw, "Scatter", True),
    ("", "GatherND"): gather_nd,
    ("", "ScatterND"): scatter_nd,
    ("", "CumSum"): ordered("CumSum"),
    ("", "TopK"): top_k,
    ("", "TensorScatter"): tensor_scatter,
    ("", "Expand"): expand,
    ("", "Tile"): tile,
    ("", "Pad"): pad,
    ("", "Resize"): resize,
    ("", "Upsample"): upsample,
    ("", "Shape"): shape_,
    ("", "Size"): lambda draw: Case(("", "Size"), [draw.data(draw.shape(0, 4))]),
    ("", "ConstantOfShape"): filled,
    ("", "Range"): range_,
    ("", "OneHot"): one_hot,
    **{("", name): like(name) for name in ("EyeLike", "NonZero", "RandomNormalLike", "RandomUniformLike", "Bernoulli")},
    **{("", name): random_shape(name) for name in ("RandomNormal", "RandomUniform")},
    **{
        ("", f"Reduce{name}"): reduction(f"Reduce{name}")
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
    **{("", name): argument(name) for name in ("ArgMax", "ArgMin")},
    **{("", name): quantized(name) for name in ("QuantizeLinear", "DequantizeLinear")},
    ("", "CastLike"): elementwise("CastLike"),
    **{
        op: (elementwise if rows[0].kind == "broadcast" else mixing)(op[1])
        for op, rows in signatures().items()
        if rows[0].kind in ("broadcast", "mixing") and not op[0]
    },
}
"""For each op what draws a node of it."""


def operator_sets(op_type: str, most: int) -> Iterator[int]:
    """Yield each operator set from 7 on, the first that ONNX Runtime supports, in which an op changed."""
    found: set[int] = set()
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.name == op_type and not schema.domain and not schema.deprecated and schema.since_version <= most:
            found.add(max(schema.since_version, 7))
    yield from sorted(found)
