"""Losses are what their formulas say, and nothing where student and teacher agree."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from scipy.special import log_softmax, softmax

from onnxslim.arrays import Array
from onnxslim.runtime.session import Session
from onnxslim.train.losses import LossKind, LossTerm
from onnxslim.train.step import compile_step

SHAPE = (6, 4, 3)


def student() -> ir.Model:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[6,4,3] x) => (float[6,4,3] y) { y = Mul (x, w) }'
    return from_text(text, w=np.ones(1, np.float32))


def loss(term: LossTerm, value: Array, target: Array) -> float:
    step = compile_step(student(), {"x": SHAPE}, ["w"], [term], None)
    feeds = {"x": value, "w": np.ones(1, np.float32), step.targets["t"]: target}
    return float(Session.of(step.model).run(feeds)[step.losses[0]])


def drawn(seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def test_mse_is_over_the_variance_of_the_target() -> None:
    value, target = drawn(0), drawn(1)
    found = loss(LossTerm(LossKind.MSE, "y", "t", variance=2.0), value, target)
    assert found == pytest.approx(float(((value - target) ** 2).mean()) / 2, rel=1e-5)


def test_mse_of_parts_is_over_the_variance_of_each() -> None:
    value, target = drawn(0), drawn(1)
    variances = np.array([[[1.0], [2.0], [4.0], [0.0]]])  # nothing is divided by 0
    value[:, 3] = target[:, 3]
    found = loss(LossTerm(LossKind.MSE, "y", "t", variance=variances), value, target)
    errors = ((value - target) ** 2)[:, :3] / variances[:, :3]
    assert found == pytest.approx(float(errors.sum() / value.size), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("axis", [1, -1])
def test_kl_is_the_divergence_of_softened_distributions(axis: int, temperature: float) -> None:
    value, target = drawn(0), drawn(1)
    term = LossTerm(LossKind.KL, "y", "t", axis=axis, temperature=temperature)
    wanted = log_softmax(target / temperature, axis)
    gap = wanted - log_softmax(value / temperature, axis)
    expected = temperature**2 * (np.exp(wanted) * gap).sum(axis).mean()
    assert loss(term, value, target) == pytest.approx(float(expected), rel=1e-4)
    assert loss(term, value, value + 3) == pytest.approx(0, abs=1e-5)


def test_probabilities_are_compared_as_the_logits_that_they_come_from() -> None:
    value, target = drawn(0), drawn(1)
    logits = loss(LossTerm(LossKind.KL, "y", "t", temperature=3.0), value, target)
    given = softmax(target, -1)
    of_probabilities = LossTerm(LossKind.KL_OF_PROBABILITIES, "y", "t", temperature=3.0)
    assert loss(of_probabilities, value, given) == pytest.approx(logits, rel=1e-4)
    given[0, 0] = (0, 0, 1)  # a probability that is 0 makes no infinity
    assert np.isfinite(loss(of_probabilities, value, given))


def test_cross_entropy_is_that_of_labels() -> None:
    value, labels = drawn(0), np.random.default_rng(2).integers(0, 4, (6, 3))
    expected = -np.take_along_axis(log_softmax(value, 1), labels[:, None, :], 1).mean()
    found = loss(LossTerm(LossKind.CROSS_ENTROPY, "y", "t", axis=1), value, labels)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_several_terms_are_weighed_and_told_one_by_one() -> None:
    terms = [LossTerm(LossKind.MSE, "y", "t", 0.25), LossTerm(LossKind.KL, "y", "t", 2.0)]
    step = compile_step(student(), {"x": SHAPE}, ["w"], terms, None)
    feeds = {"x": drawn(0), "w": np.ones(1, np.float32), step.targets["t"]: drawn(1)}
    total, *parts = Session.of(step.model).run(feeds).values()
    assert total == pytest.approx(0.25 * parts[0] + 2 * parts[1], rel=1e-5)


@pytest.mark.parametrize("none", [-1, 4, 255])
def test_labels_that_are_no_class_do_not_count(none: int) -> None:
    value, labels = drawn(0), np.full((6, 3), none)
    term = LossTerm(LossKind.CROSS_ENTROPY, "y", "t", axis=1)
    assert loss(term, value, labels) == 0
    labels[0] = 3
    expected = -log_softmax(value, 1)[0, 3].sum() / labels.size
    assert loss(term, value, labels) == pytest.approx(float(expected), rel=1e-5)
