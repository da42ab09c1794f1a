"""A small student with its teacher, and what trains it, for tests of the training floor."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.arrays import Array
from onnxslim.data import Samples, open_samples
from onnxslim.runtime.session import Session
from onnxslim.train.batches import ShuffledBatches, in_order
from onnxslim.train.loop import Course, RunnableStep, Tell, Trained, train
from onnxslim.train.losses import LossKind, LossTerm
from onnxslim.train.optimizer import Optimizer, OptimizerKind
from onnxslim.train.schedule import Schedule
from onnxslim.train.step import compile_step
from onnxslim.train.teacher import Teacher

MLP = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,3] y) {
    a = MatMul (x, w)  b = Add (a, c)  h = Relu (b)  y = Gemm (h, v, d) }"""
WEIGHTS = ("w", "c", "v", "d")


def mlp(seed: int = 0, width: int = 8, scale: float = 1.0) -> ir.Model:
    """Return a perceptron with drawn weights."""
    random = np.random.default_rng(seed)
    shapes = {"w": (4, width), "c": (width,), "v": (width, 3), "d": (3,)}
    return from_text(MLP, **{k: (scale * random.standard_normal(s)).astype(np.float32) for k, s in shapes.items()})


def weights_of(model: ir.Model, names: tuple[str, ...] = WEIGHTS) -> dict[str, Array]:
    """Return initializers as arrays."""
    return {name: model.graph.initializers[name].const_value.numpy() for name in names}  # type: ignore[union-attr]


def samples(count: int = 96, seed: int = 5, *, finite: bool = True) -> Samples:
    """Return inputs for a perceptron; unless they are all finite, one of them is NaN."""
    x = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    x[count // 2] *= 1 if finite else np.nan
    return open_samples({"x": x}, Session.of(mlp()).inputs)


def compiled(student: ir.Model, teacher: ir.Model, batch: int, count: int, optimizer: Optimizer | None) -> RunnableStep:
    """Return a step that draws the output of a student to that of a teacher."""
    terms = [LossTerm(LossKind.MSE, "y", "teacher.y")]
    step = compile_step(student, {"x": (batch, 4)}, WEIGHTS, terms, optimizer)
    return RunnableStep(
        step, Session.of(step.model), Teacher(Session.of(teacher), {"teacher.y": "y"}, count, cached=True)
    )


def train_mlp(
    steps: int = 60,
    *,
    rate: float = 0.02,
    patience: int | None = None,
    checkpoint: pathlib.Path | None = None,
    tell: Tell = lambda step, steps, evaluation: None,
    kind: OptimizerKind = OptimizerKind.ADAM,
    student: ir.Model | None = None,
    not_finite: str = "",
    **course: Any,
) -> tuple[Trained, Mapping[str, Array]]:
    """Train a perceptron to be like another one; return what came out, and its first weights.

    `not_finite` says where a sample is NaN: ``held out`` or ``trained on``.
    """
    student, teacher = student or mlp(1), mlp(0)
    optimizer = Optimizer(kind)
    given, apart = samples(finite=not_finite != "trained on"), samples(32, 6, finite=not_finite != "held out")
    step = compiled(student, teacher, 16, given.count, optimizer)
    evaluation = compiled(student, teacher, 16, apart.count, None)
    how = Course(Schedule(rate, steps), optimizer, 12, patience, checkpoint=checkpoint, **course)
    batches = ShuffledBatches(given, 16, 0)
    first = weights_of(student)
    return train(step, evaluation, first, batches, list(in_order(apart, 16)), how, tell), first
