"""Generation: next tokens and perplexity, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from evidences import evidence_of

from onnxslim.errors import DataError
from onnxslim.metrics.generation import Generation

METRIC = Generation("logits")
TOKENS = {"input_ids": np.zeros((1, 4), np.int64)}


def logits(*probabilities: list[float]) -> np.ndarray:
    return np.log(np.float32([probabilities]))


def test_perplexity_against_the_original_is_that_of_the_cross_entropy() -> None:
    one, other = logits([0.5, 0.5, 1e-9], [0.9, 0.05, 0.05]), logits([0.25, 0.75, 1e-9], [0.9, 0.05, 0.05])
    rows = METRIC.rows({"logits": one}, {"logits": other}, None, 1)
    figures = METRIC.figures(rows)
    same = -(0.9 * math.log(0.9) + 0.1 * math.log(0.05))
    assert figures["perplexity"].before == pytest.approx(math.exp((math.log(2) + same) / 2), rel=1e-5)
    crossed = -0.5 * (math.log(0.25) + math.log(0.75))
    assert figures["perplexity"].after == pytest.approx(math.exp((crossed + same) / 2), rel=1e-5)
    assert METRIC.loss(rows) == 0.5
    assert METRIC.agreement(rows).tolist() == [0.5]


def test_against_true_tokens() -> None:
    one, other = logits([0.5, 0.3, 0.2], [0.9, 0.05, 0.05]), logits([0.3, 0.5, 0.2], [0.9, 0.05, 0.05])
    labels = np.array([[1, -100]])
    rows = METRIC.rows({"logits": one}, {"logits": other}, labels, 1)
    assert METRIC.loss(rows) == -1.0
    figures = METRIC.figures(rows)
    assert figures["perplexity"].before == pytest.approx(1 / 0.3, rel=1e-5)
    assert figures["perplexity"].after == pytest.approx(2, rel=1e-5)
    with pytest.raises(DataError, match="no next tokens"):
        METRIC.rows({"logits": one}, {"logits": other}, np.array([[1]]), 1)


@pytest.mark.parametrize("labels", [None, np.array([[0, 0]])])
def test_what_is_broken_is_lost_and_stays_a_number(labels: np.ndarray | None) -> None:
    value = logits([0.5, 0.3, 0.2], [0.9, 0.05, 0.05])
    for broken in (np.full_like(value, np.nan), value[..., :2], value[:, :1]):
        rows = METRIC.rows({"logits": value}, {"logits": broken}, labels, 1)
        assert METRIC.loss(rows) == 1.0
        assert math.isfinite(METRIC.figures(rows)["perplexity"].after)
    rows = METRIC.rows({"logits": value}, {"logits": value}, labels, 1)
    assert METRIC.loss(rows) == 0.0


def test_masked_logits_are_no_trouble() -> None:
    value = logits([0.5, 0.5, 0.5], [0.9, 0.05, 0.05])
    value[..., 2] = -np.inf
    rows = METRIC.rows({"logits": value}, {"logits": value}, None, 1)
    assert METRIC.loss(rows) == 0.0
    assert math.isfinite(METRIC.figures(rows)["perplexity"].before)


@pytest.mark.parametrize(
    ("width", "inputs", "op", "fits"),
    [
        (5000, TOKENS, "MatMul", True),
        (75, TOKENS, "Add", False),
        (5000, TOKENS, "LayerNormalization", False),
        (5000, {"x": np.zeros((1, 3, 8, 8), np.float32)}, "MatMul", False),
    ],
)
def test_what_is_recognised(width: int, inputs: dict, op: str, fits: bool) -> None:
    evidence = evidence_of({"y": np.zeros((1, 4, width), np.float32)}, inputs, ops={"y": [op]})
    assert (Generation.recognise(evidence) is not None) == fits
