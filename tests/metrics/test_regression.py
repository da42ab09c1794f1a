"""Regression: R2 and relative error, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evidences import evidence_of

from onnxslim.errors import DataError
from onnxslim.metrics.regression import Regression
from onnxslim.quality.choosing import recognise

METRIC = Regression(("y",), (1,))
VALUES = np.float32([[1], [2], [3], [4]])


def loss(after: np.ndarray, labels: np.ndarray | None = None) -> float:
    return METRIC.loss(METRIC.rows({"y": VALUES}, {"y": after}, labels, 4))


def test_r2_and_relative_error_are_what_they_are_defined_as() -> None:
    rows = METRIC.rows({"y": VALUES}, {"y": VALUES + np.float32([[0], [0], [0], [1]])}, None, 4)
    figures = METRIC.figures(rows)
    assert figures["R2"].before == 1.0
    assert figures["R2"].after == pytest.approx(1 - 1 / 5)  # squares about the mean: 5
    assert figures["relative error"].after == pytest.approx(math.sqrt(1 / 30))
    assert METRIC.loss(rows) == pytest.approx(0.2)


def test_against_labels() -> None:
    labels = np.array([1.0, 2, 3, 5])
    assert loss(np.float32([[1], [2], [3], [5]]), labels) == pytest.approx(-1 / 8.75)
    assert loss(VALUES, labels) == 0.0
    with pytest.raises(DataError, match="are no 1 numbers of"):
        loss(VALUES, np.array(["a", "b", "c", "d"]))


def test_each_column_varies_by_itself_and_the_worst_output_decides() -> None:
    metric = Regression(("a", "b"), (2, 1))
    wide = np.float32([[1, 1000], [2, 1001], [3, 1002], [4, 1003]])
    shifted = wide + np.float32([1, 0])
    rows = metric.rows({"a": wide, "b": VALUES}, {"a": shifted, "b": VALUES}, None, 4)
    figures = metric.figures(rows)
    assert next(iter(figures)) == "R2 of a"
    assert metric.loss(rows) == pytest.approx(4 / 10), "the large mean of the other column hides nothing"
    assert figures["R2 of b"].after == 1.0


def test_what_is_broken_is_lost_and_one_sample_is_enough() -> None:
    for broken in (np.full_like(VALUES, np.nan), VALUES[:, :0], VALUES.astype(int)):
        assert loss(broken) >= 1.0
    one = METRIC.rows({"y": VALUES[:1]}, {"y": VALUES[:1] + 1}, None, 1)
    assert METRIC.loss(one) == 1.0
    zeros = np.zeros_like(VALUES)
    assert METRIC.loss(METRIC.rows({"y": zeros}, {"y": zeros}, None, 4)) == 0.0
    assert METRIC.loss(METRIC.rows({"y": zeros}, {"y": VALUES}, None, 4)) == 1.0
    assert METRIC.loss(METRIC.rows({"y": zeros}, {"y": zeros * np.nan}, None, 4)) == 1.0


@pytest.mark.parametrize(
    ("name", "value", "op", "metric"),
    [
        ("y", np.float32([[-3.0]]), "Gemm", "regression"),
        ("y", np.float32([12.0]), "TreeEnsemble", "regression"),
        ("y", np.float32([[0.3]]), "Sigmoid", "classification"),
        ("landmarks", np.float32([[0.1, 0.2, 0.3, 0.9]]), "Gemm", "regression"),
        ("depth", np.ones((1, 1, 32, 32), np.float32), "Conv", "regression"),
        ("y", np.ones((1, 3, 64, 64), np.float32) * 2, "Conv", "regression"),
        ("y", np.ones((1, 7, 5, 3), np.float32) * 2, "Conv", "sqnr"),
        ("h", np.ones((1, 1, 128), np.float32) * 2, "LSTM", "sqnr"),
    ],
)
def test_which_numbers_are_quantities(name: str, value: np.ndarray, op: str, metric: str) -> None:
    image = {"x": np.zeros((1, 3, 32, 32), np.float32)}
    found = recognise(evidence_of({name: value}, image, ops={name: [op]}))
    assert found.metric.name == metric
    rows = found.metric.rows({name: value}, {name: value}, None, 1)
    assert found.metric.loss(rows) == 0.0
