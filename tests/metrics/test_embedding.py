"""Embedding: cosine and neighbours, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from evidences import evidence_of

from onnxslim.metrics.embedding import Embedding
from onnxslim.quality.choosing import recognise

METRIC = Embedding("y")
TOKENS = {"input_ids": np.zeros((1, 4), np.int64)}
VECTORS = np.float32([[1, 0], [1, 0.2], [0, 1], [0.2, 1]])


def rows(before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    return METRIC.gather(METRIC.rows({"y": before}, {"y": after}, labels, len(before)))


def test_a_turn_costs_its_cosine_and_a_longer_vector_nothing() -> None:
    assert METRIC.loss(rows(VECTORS, 3 * VECTORS)) == pytest.approx(0.0, abs=1e-9)
    turned = VECTORS.copy()
    turned[0] = [1, 1]
    assert METRIC.loss(rows(VECTORS, turned)) == pytest.approx((1 - 1 / np.sqrt(2)) / 4, abs=1e-6)


def test_neighbours() -> None:
    moved = VECTORS.copy()
    moved[0] = [-1, 0.1]
    found = rows(VECTORS, moved)
    assert METRIC.agreement(found).tolist() == [0, 0, 1, 1]
    labelled = rows(VECTORS, moved, np.array([0, 0, 1, 1]))
    figures = METRIC.figures(labelled)
    assert next(iter(figures)) == "nearest neighbour"
    assert (figures["nearest neighbour"].before, figures["nearest neighbour"].after) == (1.0, 0.5)
    assert METRIC.loss(labelled) == 0.5


def test_tokens_count_their_mean() -> None:
    before = np.float32([[[1, 0], [0, 1]], [[1, 1], [1, 0]]])
    after = before.copy()
    after[0, 0] = [0, 1]
    assert METRIC.loss(rows(before, after)) == pytest.approx(0.25)


def test_what_is_broken_is_lost() -> None:
    for broken in (np.full_like(VECTORS, np.nan), VECTORS[:, :1]):
        found = rows(VECTORS, broken)
        assert METRIC.loss(found) == 1.0
        assert METRIC.agreement(found).sum() == 0
    assert METRIC.loss(rows(np.zeros_like(VECTORS), np.zeros_like(VECTORS))) == 0.0
    assert METRIC.loss(rows(VECTORS[:1], VECTORS[:1])) == 0.0


@pytest.mark.parametrize(
    ("outputs", "inputs", "ops", "metric"),
    [
        ({"y": np.random.default_rng(0).normal(size=(1, 4, 256))}, TOKENS, "LayerNormalization", "embedding"),
        ({"y": np.random.default_rng(0).normal(size=(1, 4, 256))}, TOKENS, "Add", "embedding"),
        ({"y": np.random.default_rng(0).normal(size=(1, 4, 75))}, TOKENS, "Add", "text"),
        ({"embedding": np.random.default_rng(0).normal(size=(1, 100))}, None, "Gemm", "embedding"),
        ({"y": np.eye(100)[:1]}, None, "Div", "embedding"),
        ({"y": np.random.default_rng(0).normal(size=(1, 512))}, None, "Gemm", "embedding"),
        ({"y": np.random.default_rng(0).normal(size=(1, 1000))}, None, "Gemm", "classification"),
        ({"y": np.full((1, 512), 1 / 512)}, None, "Softmax", "classification"),
    ],
)
def test_which_vectors_are_embeddings(outputs: dict, inputs: dict | None, ops: str, metric: str) -> None:
    outputs = {name: array.astype(np.float32) for name, array in outputs.items()}
    if ops == "Div":
        outputs["y"] = np.random.default_rng(0).normal(size=(1, 100)).astype(np.float32)
        outputs["y"] /= np.linalg.norm(outputs["y"])
    assert recognise(evidence_of(outputs, inputs, ops={name: [ops] for name in outputs})).metric.name == metric
