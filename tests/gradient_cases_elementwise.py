"""Draws nodes of elementwise ops, with the attributes that their gradients read, of as many operands as they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from op_cases import elementwise
from op_draw import Array, Case, Draw

from onnxslim.ops.signatures import OpName

f32 = np.float32

ATTRIBUTES: Mapping[str, Mapping[str, float]] = {
    "Celu": {"alpha": 1.3},
    "Elu": {"alpha": 0.7},
    "HardSigmoid": {"alpha": 0.4, "beta": 0.3},
    "LeakyRelu": {"alpha": 0.3},
    "Selu": {"alpha": 1.5, "gamma": 0.9},
    "Shrink": {"lambd": 0.8, "bias": 0.2},
    "Swish": {"alpha": 1.4},
    "ThresholdedRelu": {"alpha": 0.6},
    "QuickGelu": {"alpha": 1.2},
}
"""Numbers that a formula may read; each is left out in some nodes."""


def with_attributes(op: OpName) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        case = elementwise(op[1])(draw)
        told = {name: number for name, number in ATTRIBUTES[op[1]].items() if draw.chance()}
        return Case(op, case.operands, told)

    return drawn


def variadic(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        shape = draw.shape()
        shapes = [tuple(1 if draw.chance(0.2) else size for size in shape) for _ in range(draw.number(1, 4))]
        operands: list[Array | None] = [draw.data(shape[draw.number(0, len(shape)) :]) for shape in shapes]
        return Case(("", op_type), [draw.data(shape), *operands[1:]])  # onnx's reference of Mean wants it so

    return drawn


def clip(draw: Draw) -> Case:
    ends: list[Array | None] = [draw.data(()) if draw.chance(0.7) else None for _ in range(2)]
    operands: list[Array | None] = [draw.data(draw.shape()), *ends]
    while operands[-1] is None:
        operands.pop()
    return Case(("", "Clip"), operands)


def power(draw: Draw) -> Case:
    shape = draw.shape()
    exponent = draw.one_of([draw.data(shape[-1:]), np.array(draw.number(-1, 3)), np.array(draw.one_of([0.5, 2.5]))])
    return Case(("", "Pow"), [draw.data(shape), exponent], {}, frozenset({1} if exponent.ndim == 0 else {}))


def p_relu(draw: Draw) -> Case:
    shape = draw.shape()
    slope = tuple(1 if draw.chance(0.4) else size for size in shape)[draw.number(0, len(shape) - 1) :]
    return Case(("", "PRelu"), [draw.data(shape), draw.data(slope)])


def cast(op_type: str) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        data = draw.data(draw.shape())
        if op_type == "CastLike":
            return Case(("", op_type), [data, np.zeros(1, draw.one_of([f32, np.float64]))], {}, frozenset({1}))
        return Case(("", op_type), [data], {"to": int(draw.one_of([onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE]))})

    return drawn


def gelu(draw: Draw) -> Case:
    attributes: dict[str, Any] = {"approximate": draw.one_of(["none", "tanh"])} if draw.chance(0.7) else {}
    return Case(("", "Gelu"), [draw.data(draw.shape())], attributes)


def shrink(draw: Draw) -> Case:
    """Numbers that are off the jumps, as ONNX Runtime computes in float32 whatever they are."""
    case = with_attributes(("", "Shrink"))(draw)
    shape = draw.shape()
    data = draw.random.choice(np.array([-1.7, -1.1, -0.65, -0.2, 0.1, 0.7, 1.3], f32), shape)
    return Case(case.op, [np.asarray(data * draw.random.uniform(0.9, 1.1, shape), f32)], case.attributes)


def biased(op_type: str, *, optional: bool) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        shape = draw.shape(2, 3)
        bias: list[Array | None] = [] if optional and draw.chance() else [draw.data(shape[-1:])]
        return Case(("com.microsoft", op_type), [draw.data(shape), *bias])

    return drawn


DRAWN_FOR_GRADIENTS: Mapping[OpName, Callable[[Draw], Case]] = {
    **{("", name): with_attributes(("", name)) for name in ATTRIBUTES if name != "QuickGelu"},
    **{("", name): variadic(name) for name in ("Sum", "Mean", "Max", "Min")},
    **{("", name): cast(name) for name in ("Cast", "CastLike")},
    ("", "Shrink"): shrink,
    ("", "Clip"): clip,
    ("", "Pow"): power,
    ("", "PRelu"): p_relu,
    ("", "Gelu"): gelu,
    ("com.microsoft", "Gelu"): lambda draw: Case(("com.microsoft", "Gelu"), [draw.data(draw.shape())]),
    ("com.microsoft", "QuickGelu"): with_attributes(("com.microsoft", "QuickGelu")),
    ("com.microsoft", "BiasGelu"): biased("BiasGelu", optional=False),
    ("com.microsoft", "FastGelu"): biased("FastGelu", optional=True),
}
