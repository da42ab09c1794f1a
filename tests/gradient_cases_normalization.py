"""Draws nodes of normalisations: along any axes, with statistics as results or without, with operands left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from op_draw import Array, Case, Draw

from onnxslim.ops.signatures import OpName


def layer(op_type: str, *, shifted: bool, statistics: int) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        shape = draw.shape(2, 4, least=2)
        axis = draw.axis(len(shape))
        own = shape[axis:]
        scale = tuple(1 if draw.chance(0.1) and op_type == "RMSNormalization" else size for size in own)
        operands: list[Array | None] = [draw.data(shape), draw.data(scale)]
        if shifted and draw.chance(0.7):
            operands.append(draw.data(own))
        attributes: dict[str, Any] = {"axis": axis, **({"epsilon": 0.01} if draw.chance() else {})}
        if axis in (-1, len(shape) - 1) and draw.chance():
            del attributes["axis"]
        outputs = (True, *[draw.chance(0.4) for _ in range(statistics)])
        return Case(("", op_type), operands, attributes, outputs=outputs)

    return drawn


def skipping(op_type: str, *, shifted: bool) -> Callable[[Draw], Case]:
    def drawn(draw: Draw) -> Case:
        shape = draw.shape(3, 3, least=2)
        skip = draw.one_of([shape, shape[1:], (1, *shape[1:])])
        operands: list[Array | None] = [draw.data(shape), draw.data(skip), draw.data(shape[-1:])]
        if shifted:
            operands.append(draw.data(shape[-1:]) if draw.chance() else None)
        operands += [draw.data(shape[-1:])] if draw.chance() else []
        while operands[-1] is None:
            operands.pop()
        outputs = (True, False, False, True) if draw.chance() else (True,)
        return Case(("com.microsoft", op_type), operands, {"epsilon": 0.01}, outputs=outputs)

    return drawn


def grouped(draw: Draw) -> Case:
    groups, each = draw.number(1, 3), draw.number(1, 3)
    shape = (draw.number(1, 3), groups * each, *draw.shape(1, 2, least=2))
    factors = (groups,) if draw.opset < 21 else (groups * each,)
    attributes = {"num_groups": groups, **({"epsilon": 0.01} if draw.chance() else {})}
    return Case(("", "GroupNormalization"), [draw.data(shape), draw.data(factors), draw.data(factors)], attributes)


def instance(draw: Draw) -> Case:
    shape = (draw.number(1, 3), draw.number(1, 4), *draw.shape(1, 2, least=2))
    operands: list[Array | None] = [draw.data(shape), draw.data(shape[1:2]), draw.data(shape[1:2])]
    return Case(("", "InstanceNormalization"), operands, {"epsilon": 0.01} if draw.chance() else {})


def batch(draw: Draw) -> Case:
    training = draw.chance(0.4)
    shape = (draw.number(2, 3), draw.number(1, 4), *(draw.shape(1, 2, least=2) if draw.chance(0.8) else ()))
    channels = shape[1:2]
    variance = np.asarray(draw.random.uniform(0.5, 2.0, channels), np.float32)
    operands: list[Array | None] = [draw.data(shape), *[draw.data(channels) for _ in range(3)], variance]
    attributes: dict[str, Any] = {"epsilon": 0.01} if draw.chance() else {}
    if training:
        attributes |= {"training_mode": 1, **({"momentum": 0.6} if draw.chance() else {})}
    outputs = (True, True, True) if training else (True,)
    return Case(("", "BatchNormalization"), operands, attributes, outputs=outputs)


def local_response(draw: Draw) -> Case:
    shape = (draw.number(1, 2), draw.number(1, 6), *draw.shape(2, 2))
    attributes: dict[str, Any] = {"size": draw.one_of([1, 3, 5])}
    attributes |= {"alpha": 0.5} if draw.chance() else {}
    attributes |= {"beta": 0.6, "bias": 1.3} if draw.chance() else {}
    return Case(("", "LRN"), [draw.data(shape)], attributes)


def to_length_one(draw: Draw) -> Case:
    shape = draw.shape(1, 4, least=2)
    attributes = {"p": draw.number(1, 2)} if draw.chance(0.7) else {}
    return Case(("", "LpNormalization"), [draw.data(shape)], {**attributes, "axis": draw.axis(len(shape))})


def whitened(draw: Draw) -> Case:
    attributes = {"axes": draw.axes(4)} if draw.chance(0.7) else {}
    return Case(("", "MeanVarianceNormalization"), [draw.data(draw.shape(4, 4, least=2, most=3))], attributes)


def accumulated(draw: Draw) -> Case:
    shape = draw.shape()
    attributes = {name: draw.number(0, 1) for name in ("exclusive", "reverse") if draw.chance(0.7)}
    return Case(("", "CumSum"), [draw.data(shape), np.array(draw.axis(len(shape)))], attributes, frozenset({1}))


DRAWN_FOR_GRADIENTS: Mapping[OpName, Callable[[Draw], Case]] = {
    ("", "LayerNormalization"): layer("LayerNormalization", shifted=True, statistics=2),
    ("", "RMSNormalization"): layer("RMSNormalization", shifted=False, statistics=0),
    ("", "SimplifiedLayerNormalization"): layer("SimplifiedLayerNormalization", shifted=False, statistics=1),
    ("com.microsoft", "SkipLayerNormalization"): skipping("SkipLayerNormalization", shifted=True),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): skipping("SkipSimplifiedLayerNormalization", shifted=False),
    ("", "GroupNormalization"): grouped,
    ("", "InstanceNormalization"): instance,
    ("", "BatchNormalization"): batch,
    ("", "LRN"): local_response,
    ("", "LpNormalization"): to_length_one,
    ("", "MeanVarianceNormalization"): whitened,
    ("", "CumSum"): accumulated,
}
