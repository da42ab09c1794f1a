"""Segmentation: mean IoU by hand, of classes and of marks."""

from __future__ import annotations

import numpy as np
import pytest
from evidences import evidence_of

from onnxslim.errors import DataError
from onnxslim.metrics.segmentation import Segmentation

IMAGE = {"x": np.zeros((1, 3, 32, 32), np.float32)}


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    return np.moveaxis(np.eye(count, dtype=np.float32)[classes], -1, 1)


def test_classes_by_hand() -> None:
    metric = Segmentation(("y",), axis=-3, classes=3)
    truth = np.zeros((1, 2, 4), np.int64)
    truth[0, 1] = 1
    given = truth.copy()
    given[0, 1, 3] = 0
    rows = metric.rows({"y": one_hot(truth, 3)}, {"y": one_hot(given, 3)}, None, 1)
    # class 0: 4 shared of 5, class 1: 3 of 4, class 2 does not occur
    assert metric.figures(rows)["mean IoU"].after == pytest.approx((4 / 5 + 3 / 4) / 2)
    assert metric.figures(rows)["right places"].after == 7 / 8
    assert metric.loss(rows) == pytest.approx(1 - (4 / 5 + 3 / 4) / 2)
    assert metric.agreement(rows).tolist() == [7 / 8]
    labelled = metric.rows({"y": one_hot(given, 3)}, {"y": one_hot(truth, 3)}, truth, 1)
    assert metric.loss(labelled) == pytest.approx((4 / 5 + 3 / 4) / 2 - 1)


def test_samples_are_pooled_as_the_measure_is_defined() -> None:
    metric = Segmentation(("y",), threshold=0.5)
    before = np.zeros((2, 1, 1, 10), np.float32)
    before[0, ..., :1] = before[1, ..., :9] = 1
    after = np.zeros((2, 1, 1, 10), np.float32)
    after[1, ..., :9] = 1
    rows = metric.rows({"y": before}, {"y": after}, None, 2)
    assert metric.loss(rows) == pytest.approx(1 / 10)


def test_marks_of_several_outputs_and_of_logits() -> None:
    metric = Segmentation(("a", "b"), threshold=0.0)
    one, other = np.float32([[-1, 2, 3, -4]]), np.float32([[-1, 2, -3, -4]])
    rows = metric.rows({"a": one, "b": one}, {"a": one, "b": other}, None, 1)
    assert metric.loss(rows) == pytest.approx((0 + 1 / 2) / 2)


@pytest.mark.parametrize("broken", [np.full((1, 2, 8, 8), np.nan), np.zeros((1, 2, 8, 7)), np.zeros((1, 2, 8))])
@pytest.mark.parametrize("axis", [None, -3])
def test_what_is_broken_is_lost_and_the_same_loses_nothing(broken: np.ndarray, axis: int | None) -> None:
    metric = Segmentation(("y",), axis=axis, classes=1 if axis is None else 2)
    value = np.random.default_rng(0).random((1, 2, 8, 8)).astype(np.float32)
    assert metric.loss(metric.rows({"y": value}, {"y": broken.astype(np.float32)}, None, 1)) == 1.0
    assert metric.loss(metric.rows({"y": value}, {"y": value}, None, 1)) == 0.0
    nothing = np.zeros_like(value)
    assert metric.loss(metric.rows({"y": nothing}, {"y": nothing}, None, 1)) == 0.0


def test_labels_that_are_no_maps() -> None:
    metric = Segmentation(("y",), axis=-3, classes=2)
    value = np.zeros((1, 2, 8, 8), np.float32)
    with pytest.raises(DataError, match="no classes for"):
        metric.rows({"y": value}, {"y": value}, np.array([3]), 1)


@pytest.mark.parametrize(
    ("name", "value", "ops", "axis"),
    [
        ("y", np.zeros((1, 21, 32, 32), np.float32), "Conv", -3),
        ("y", np.zeros((1, 21, 16, 16), np.float32), "Resize", -3),
        ("y", np.zeros((1, 32, 32, 2), np.float32), "Conv", -1),
        ("y", np.full((1, 3, 32, 32), 1 / 3, np.float32), "Softmax", -3),
        ("y", np.zeros((1, 1, 32, 32), np.float32), "Sigmoid", None),
        ("mask", np.zeros((1, 1, 32, 32), np.float32), "Conv", None),
        ("y", np.full((1, 40, 88), 0.3, np.float32), "Sigmoid", None),
        ("y", np.zeros((1, 32, 32), np.int64), "ArgMax", None),
    ],
)
def test_maps_are_recognised(name: str, value: np.ndarray, ops: str, axis: int | None) -> None:
    found = Segmentation.recognise(evidence_of({name: value}, IMAGE, ops={name: [ops]}))
    assert found is not None
    assert isinstance(found.metric, Segmentation)
    assert found.metric.axis == axis
    assert found.metric.loss(found.metric.rows({name: value}, {name: value}, None, 1)) == 0.0


@pytest.mark.parametrize(
    ("name", "value", "ops"),
    [
        ("y", np.zeros((1, 3, 32, 32), np.float32), "Conv"),
        ("y", np.zeros((1, 1, 32, 32), np.float32), "Conv"),
        ("flow", np.zeros((1, 2, 32, 32), np.float32), "Conv"),
        ("features", np.zeros((1, 64, 8, 8), np.float32), "Relu"),
        ("y", np.zeros((1, 64, 5, 5), np.float32), "Relu"),
        ("y", np.zeros((1, 16, 64), np.float32), "LayerNormalization"),
        ("y", np.zeros((1, 10), np.float32), "Gemm"),
    ],
)
def test_what_is_no_map(name: str, value: np.ndarray, ops: str) -> None:
    assert Segmentation.recognise(evidence_of({name: value}, IMAGE, ops={name: [ops]})) is None
