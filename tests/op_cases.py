"""Draws nodes of every structural op, of any operator set: what the proof of the ops is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.defs
from op_cases_moving import (
    beside,
    concat,
    expand,
    flatten,
    gather,
    gather_nd,
    ordered,
    pad,
    reshape,
    resize,
    scatter_nd,
    slice_,
    split,
    squeeze,
    tensor_scatter,
    tile,
    top_k,
    transpose,
    unsqueeze,
    upsample,
)
from op_draw import Case, Draw, attribute_or_input

from onnxslim.ops.signatures import OpName, signatures
from onnxslim.ops.traits import Trait

Array = np.ndarray[Any, np.dtype[Any]]
f32, i64 = np.float32, np.int64


# Movement


# Indexing


# Stretching


# Reductions, and what mixes


def reduction(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        attributes: dict[str, Any] = {} if draw.chance(0.3) else {"keepdims": draw.number(0, 1)}
        since = 13 if op_type == "ReduceSum" else 18
        if draw.chance(0.3) and op_type in ("ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin"):
            told, inputs = attribute_or_input(draw, since, "axes", [0])
            return Case(("", op_type), [draw.shape_like(), *inputs], {**attributes, **told}, frozenset({0, 1}))
        shape = draw.shape()
        told, inputs = ({}, []) if draw.chance(0.2) else attribute_or_input(draw, since, "axes", draw.axes(len(shape)))
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


def quantized(op: OpName) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        shape = draw.shape()
        data = draw.data(shape, f32 if op[1] == "QuantizeLinear" else np.uint8)
        axis = draw.axis(len(shape))
        along = draw.opset >= 13 and draw.chance(0.6)
        size = (shape[axis],) if along else ()
        scales: list[Array | None] = [draw.data(size), draw.data(size, np.uint8)][: 1 + draw.chance()]
        return Case(op, [data, *scales], {"axis": axis} if along else {})

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
    ("", "GatherElements"): lambda draw: beside(draw, "GatherElements", False),
    ("", "ScatterElements"): lambda draw: beside(draw, "ScatterElements", True),
    ("", "Scatter"): lambda draw: beside(draw, "Scatter", True),
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
    **{
        (domain, name): quantized((domain, name))
        for domain in ("", "com.microsoft")
        for name in ("QuantizeLinear", "DequantizeLinear")
    },
    ("", "CastLike"): elementwise("CastLike"),
    **{
        op: (elementwise if rows[0].kind == "broadcast" else mixing)(op[1])
        for op, rows in signatures().items()
        if rows[0].kind in ("broadcast", "mixing") and not op[0]
    },
}
"""For each op what draws a node of it."""


def operator_sets(op: OpName, most: int) -> Iterator[int]:
    """Yield each operator set from 7 on, the first that ONNX Runtime supports, in which an op changed.

    An op of another domain has versions that onnx does not know: one set of ONNX is yielded beside it.
    """
    domain, op_type = op
    found = {21} if domain else set[int]()
    for schema in onnx.defs.get_all_schemas_with_history():
        if (
            schema.name == op_type
            and schema.domain == domain
            and not schema.deprecated
            and schema.since_version <= most
        ):
            found.add(max(schema.since_version, 7))
    yield from sorted(found)
