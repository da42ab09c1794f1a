"""Classification: top-1 and top-5 by hand, with labels and without; what is broken is lost."""

from __future__ import annotations

import numpy as np
import pytest
from evidences import evidence_of

from onnxslim.errors import DataError
from onnxslim.metrics.classification import Classification, Reading

LOGITS = np.array([[1, 2, 3], [3, 2, 1], [1, 5, 1], [2, 1, 1]], np.float32)
LABELS = np.array([2, 0, 1, 1])
METRIC = Classification("y", classes=3)


def loss(metric: Classification, before: np.ndarray, after: np.ndarray, labels: np.ndarray | None = None) -> float:
    return metric.loss(metric.rows({"y": before}, {"y": after}, labels, 4))


def test_top1_against_the_labels_and_against_the_original() -> None:
    rows = METRIC.rows({"y": LOGITS}, {"y": LOGITS[:, ::-1]}, LABELS, 4)
    top1 = METRIC.figures(rows)["top-1"]
    assert (top1.before, top1.after) == (0.75, 0.25)
    assert METRIC.loss(rows) == 0.5
    assert METRIC.agreement(rows).tolist() == [0, 0, 1, 0]
    rows = METRIC.rows({"y": LOGITS}, {"y": LOGITS[:, ::-1]}, None, 4)
    assert METRIC.figures(rows)["top-1"].before == 1.0
    assert 0 < METRIC.loss(rows) < 0.75, "three decisions flip, and the original was not sure of them"


def test_a_candidate_may_do_better() -> None:
    assert loss(METRIC, LOGITS, np.eye(3, dtype=np.float32)[LABELS], LABELS) == -0.25


def test_top5_looks_at_the_best_five() -> None:
    metric = Classification("y", classes=8)
    scores = np.tile(np.arange(8, dtype=np.float32), (4, 1))
    labels = np.array([7, 3, 2, 0])
    figures = metric.figures(metric.rows({"y": scores}, {"y": scores}, labels, 4))
    assert figures["top-1"].after == 0.25
    assert figures["top-5"].after == 0.5
    assert "top-5" not in METRIC.figures(METRIC.rows({"y": LOGITS}, {"y": LOGITS}, LABELS, 4))


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_broken_is_lost(labels: np.ndarray | None, broken: float) -> None:
    whole = loss(METRIC, LOGITS, np.full_like(LOGITS, broken), labels)
    assert whole == (1.0 if labels is None else 0.75)
    assert loss(METRIC, LOGITS, LOGITS[:, :2], labels) == whole
    assert loss(METRIC, LOGITS, LOGITS[:, :, None], labels) == whole
    one = LOGITS.copy()
    one[0, 0] = broken
    assert loss(METRIC, LOGITS, one, labels) == 0.25


def test_nan_in_the_original_is_never_right() -> None:
    broken = np.full_like(LOGITS, np.nan)
    assert METRIC.figures(METRIC.rows({"y": broken}, {"y": broken}, LABELS, 4))["top-1"].before == 0.0
    assert loss(METRIC, broken, broken) == 0.0


def test_a_sample_of_many_decisions_counts_their_share() -> None:
    metric = Classification("y", axis=1, classes=3)
    before = np.zeros((1, 3, 2, 2), np.float32)
    before[:, 1] = 2
    after = before.copy()
    after[0, 2, 0, 0] = 3
    rows = metric.rows({"y": before}, {"y": after}, None, 1)
    assert rows.shape[0] == 1
    assert rows[0, 4] == 0.75, "three of four decisions are alike"
    assert metric.loss(metric.rows({"y": before}, {"y": after}, np.ones((1, 4), np.int64), 1)) == 0.25
    sure, unsure = np.exp(2.0) / (np.exp(2.0) + 2), 1 / (np.exp(2.0) + 2)
    assert metric.loss(rows) == pytest.approx(0.25 * (sure - unsure)), "what the reference believes is lost"


def test_classes_told_outright() -> None:
    metric = Classification("y", Reading.NUMBERS)
    one, other = np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])
    assert metric.loss(metric.rows({"y": one}, {"y": other}, None, 4)) == 0.25
    words = np.array(["cat", "dog"], object)
    assert metric.loss(metric.rows({"y": words}, {"y": words[::-1]}, np.array(["cat", "cow"]), 2)) == 0.5
    maps = [{"cat": 0.1, "dog": 0.9}, {"cat": 0.8, "dog": 0.2}]
    flipped = [{"cat": 0.7, "dog": 0.3}, {"cat": 0.8, "dog": 0.2}]
    assert metric.loss(metric.rows({"y": maps}, {"y": flipped}, None, 2)) == 0.5
    assert metric.loss(metric.rows({"y": maps}, {"y": [{}, {}]}, None, 2)) == 1.0
    assert metric.loss(metric.rows({"y": maps}, {"y": one}, None, 2)) == 1.0


def test_a_probability_is_a_decision() -> None:
    metric = Classification("y", Reading.PROBABILITY)
    before, after = np.float32([[0.9], [0.2], [0.6], [0.4]]), np.float32([[0.6], [0.4], [0.4], [0.1]])
    assert loss(metric, before, after) == 0.25
    assert loss(metric, before, after, np.array([1, 0, 0, 0])) == -0.25


@pytest.mark.parametrize("labels", [LABELS.astype(np.float32), np.ones((4, 7), np.int64)])
def test_labels_that_are_no_classes_want_another_metric(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="no class numbers") as caught:
        loss(METRIC, LOGITS, LOGITS, labels)
    assert "--metric" in (caught.value.hint or "")


def test_the_interval_is_never_empty_and_narrow_where_models_hardly_differ() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(500, 10)).astype(np.float32)
    labels = np.where(generator.random(500) < 0.8, scores.argmax(1), generator.integers(0, 10, 500))
    metric = Classification("y", classes=10)
    changed = scores.copy()
    changed[:5] = -changed[:5]
    for truth in (None, labels):
        same = metric.interval(metric.rows({"y": scores}, {"y": scores}, truth, 500), generator)
        assert same.value == 0.0
        assert 0 < same.high < 0.02, "flips are counted: such scores are no beliefs"
        rows = metric.rows({"y": scores}, {"y": changed}, truth, 500)
        interval = metric.interval(rows, generator)
        assert interval.low < interval.value < interval.high
        assert interval.value == metric.loss(rows)
        assert interval.high - interval.low < 0.03, "two unpaired intervals are 0.07 wide each"


@pytest.mark.parametrize(
    ("output", "value", "recognised"),
    [
        ("logits", np.zeros((1, 10), np.float32), True),
        ("y", np.zeros((1, 1000), np.float32), True),
        ("y", np.zeros((1, 10, 1, 1), np.float32), True),
        ("landmarks", np.zeros((1, 10), np.float32), False),
        ("y", np.zeros((1, 1), np.float32), False),
        ("label", np.zeros((1,), np.int64), True),
        ("label", np.array(["cat"], object), True),
        ("output_probability", [{0: 0.1, 1: 0.9}], True),
        ("y", [np.zeros(3)], False),
        ("y", np.zeros((0, 0), np.float32), False),
    ],
)
def test_what_is_recognised(output: str, value: object, recognised: bool) -> None:
    found = Classification.recognise(evidence_of({output: value}))
    assert (found is not None) == recognised
    if found is not None:
        rows = found.metric.rows({output: value}, {output: value}, None, 1)
        assert found.metric.loss(rows) == 0.0
