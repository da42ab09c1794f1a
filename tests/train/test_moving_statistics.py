"""BatchNormalization in training: a step normalises by its batch, and the stored statistics follow."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import normalized_network

from onnxslim.arrays import Array
from onnxslim.runtime.resident import ResidentState
from onnxslim.runtime.session import Session
from onnxslim.train.losses import LossKind, LossTerm
from onnxslim.train.moving_statistics import normalize_by_batch, normalize_by_stored, stored_statistics
from onnxslim.train.optimizer import RATE, Optimizer, OptimizerKind
from onnxslim.train.step import compile_step

TERMS = [LossTerm(LossKind.MSE, "y", "t")]
SGD = Optimizer(OptimizerKind.SGD, momentum=0.0)
IMAGES = np.random.default_rng(0).normal(2, 3, (16, 3, 8, 8)).astype(np.float32)


def arrays(model: ir.Model, names: list[str]) -> dict[str, Array]:
    return {name: model.graph.initializers[name].const_value.numpy() for name in names}  # type: ignore[union-attr]


def test_statistics_follow_those_of_the_batches_and_an_evaluation_reads_them() -> None:
    student = normalized_network()
    weights, statistics = ["w1", "s1", "t1", "v"], stored_statistics(student.graph)
    assert statistics == ["m1", "d1"]
    step = compile_step(student, {"x": IMAGES.shape}, weights, TERMS, SGD, statistics=statistics)
    assert step.weights == (*weights, *statistics)
    state = ResidentState(Session.of(step.model), arrays(student, list(step.weights)), step.successors)
    target = np.zeros((16, 5), np.float32)
    feeds = {"x": IMAGES, step.targets["t"]: target, step.scalars[RATE]: np.asarray(0, np.float32)}
    for _ in range(200):  # momentum 0.9: nothing is left of what was stored at first
        state.run(feeds, step.losses)
    convolved = Session.of(normalized_network(output="a")).run({"x": IMAGES})["a"]
    found = state.read(statistics)
    np.testing.assert_allclose(found["m1"], convolved.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["d1"], convolved.var((0, 2, 3)), rtol=1e-3)
    (by_batch,) = state.run(feeds, step.losses).values()
    evaluation = compile_step(student, {"x": IMAGES.shape}, weights, TERMS, None, statistics=statistics)
    shared = state.share(Session.of(evaluation.model), list(evaluation.weights))
    (by_stored,) = shared.run({"x": IMAGES, evaluation.targets["t"]: target}, evaluation.losses).values()
    assert by_stored == pytest.approx(by_batch, rel=1e-3)


def test_statistics_that_are_not_named_stay() -> None:
    step = compile_step(normalized_network(), {"x": IMAGES.shape}, ["w1"], TERMS, SGD)
    assert step.weights == ("w1",)
    assert {"m1", "d1"} <= set(step.model.graph.initializers)


def test_statistics_that_two_nodes_share_are_not_those_of_one() -> None:
    student = normalized_network()
    (reader,) = {use.node for use in student.graph.initializers["m1"].uses()}
    reader.replace_input_with(4, student.graph.initializers["m1"])
    assert stored_statistics(student.graph) == []
    assert normalize_by_batch(student) == {}


def test_the_form_for_training_is_undone() -> None:
    student, wanted = normalized_network(), Session.of(normalized_network()).run({"x": IMAGES})["y"]
    normalize_by_batch(student)
    assert np.abs(Session.of(student).run({"x": IMAGES})["y"] - wanted).max() > 1e-2
    normalize_by_stored(student)
    np.testing.assert_array_equal(Session.of(student).run({"x": IMAGES})["y"], wanted)
