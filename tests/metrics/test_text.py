"""Text: sequences and edits by hand; CTC is collapsed, tags are not."""

from __future__ import annotations

import numpy as np
import pytest
from evidences import evidence_of
from hypothesis import given
from hypothesis import strategies as st

from onnxslim.errors import DataError
from onnxslim.metrics.text import Text, edit_distance

IMAGE = {"x": np.zeros((1, 1, 32, 160), np.float32)}
TOKENS = {"input_ids": np.zeros((1, 16), np.int64)}


def scores(steps: list[int], classes: int = 12) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[steps][None]


def slow_distance(one: list[int], other: list[int]) -> int:
    table = [[i + j for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            replaced = table[i - 1][j - 1] + (one[i - 1] != other[j - 1])
            table[i][j] = min(replaced, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


words = st.lists(st.integers(0, 4), max_size=8)


@given(words, words)
def test_edit_distance_is_levenshtein_s(one: list[int], other: list[int]) -> None:
    assert edit_distance(np.array(one, int), np.array(other, int)) == slow_distance(one, other)


def test_blanks_and_repetitions_are_no_text() -> None:
    metric = Text("y", blank=0)
    one, other = scores([0, 3, 3, 0, 3, 5]), scores([3, 0, 0, 3, 5, 5])
    assert metric.loss(metric.rows({"y": one}, {"y": other}, None, 1)) == 0.0
    wrong = scores([0, 3, 3, 3, 3, 5])
    rows = metric.rows({"y": one}, {"y": wrong}, None, 1)
    assert metric.loss(rows) == 1.0
    assert metric.figures(rows)["edits per character"].after == pytest.approx(1 / 3)


def test_tags_are_counted_one_by_one() -> None:
    metric = Text("y")
    one, other = scores([1, 1, 2, 3]), scores([1, 1, 2, 4])
    rows = metric.rows({"y": one}, {"y": other}, None, 1)
    assert metric.loss(rows) == 0.25
    assert metric.figures(rows)["equal sequences"].after == 0.0
    assert metric.agreement(rows).tolist() == [0.75]


def test_against_labels_with_padding() -> None:
    metric = Text("y", blank=0)
    right, wrong = scores([0, 3, 0, 5]), scores([0, 3, 0, 4])
    labels = np.array([[3, 5, -1, -1]])
    assert metric.loss(metric.rows({"y": right}, {"y": wrong}, labels, 1)) == 1.0
    assert metric.loss(metric.rows({"y": wrong}, {"y": right}, labels, 1)) == -1.0
    with pytest.raises(DataError, match="no sequence"):
        metric.rows({"y": right}, {"y": right}, np.array([[0.5]]), 1)


@pytest.mark.parametrize("blank", [None, 0])
def test_what_is_broken_is_lost(blank: int | None) -> None:
    metric = Text("y", blank=blank)
    value = scores([0, 3, 0, 5])
    for broken in (np.full_like(value, np.nan), value[:, :3], value[..., :5]):
        assert metric.loss(metric.rows({"y": value}, {"y": broken}, None, 1)) == 1.0


@pytest.mark.parametrize(
    ("value", "inputs", "op", "blank", "fits"),
    [
        (scores([0, 0, 3, 0, 5]), IMAGE, "Gemm", 0, True),
        (scores([11, 11, 3, 11, 5]).swapaxes(0, 1), IMAGE, "Gemm", 11, True),
        (3 * scores([4, 1, 3, 2, 5]), IMAGE, "Gemm", 0, False),
        (scores([4, 1, 3, 2, 5]), IMAGE, "Softmax", 0, True),
        (scores([4, 1, 3, 2, 5]), IMAGE, "LayerNormalization", 0, False),
        (scores([4, 1, 3, 2, 5]), TOKENS, "Add", None, True),
        (np.array([[3, 4, 5, 0]]), IMAGE, "ArgMax", None, True),
        (np.array([[3.0, 4.0, 5.0]], np.float32), IMAGE, "ArgMax", None, True),
        (np.array([[3, 4, 5, 0]]), TOKENS, "", None, False),
        (np.zeros((1, 12), np.float32), IMAGE, "Gemm", None, False),
    ],
)
def test_what_is_recognised(value: np.ndarray, inputs: dict, op: str, blank: int | None, fits: bool) -> None:
    found = Text.recognise(evidence_of({"y": value}, inputs, ops={"y": [op] if op else []}))
    assert (found is not None) == fits
    if found is not None:
        assert isinstance(found.metric, Text)
        assert found.metric.blank == blank
        assert found.metric.loss(found.metric.rows({"y": value}, {"y": value}, None, 1)) == 0.0
