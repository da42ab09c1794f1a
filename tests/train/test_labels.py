"""Labels alone are a target: classes by cross-entropy, numbers by squared differences; what fits none is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.data import Samples, open_samples
from onnxslim.errors import DataError
from onnxslim.runtime.session import Session
from onnxslim.train.labels import LabelSummary, label_terms, read_labels
from onnxslim.train.losses import LossKind

MODEL = from_text(
    '<ir_version: 8, opset_import: ["" : 18]> g (float[N,5] x) => (float[N] s, float[N,5] y, float[N,2,5] m) {'
    " s = ReduceSum <keepdims = 0> (x, a)  y = Softmax (x)  t = Unsqueeze (x, a)  m = Concat <axis = 1> (t, t) }",
    a=np.array([1]),
)
COUNT = 6


def outputs() -> dict[str, np.ndarray]:
    return dict(Session.of(MODEL).run({"x": np.zeros((COUNT, 5), np.float32)}))


def samples(labels: np.ndarray | None) -> Samples:
    given = {"x": np.zeros((COUNT, 5), np.float32)}
    return open_samples(given if labels is None else {**given, "labels": labels}, Session.of(MODEL).inputs)


def terms(labels: np.ndarray) -> tuple[LossKind, str, int]:
    (term,) = label_terms(MODEL.graph, outputs(), COUNT, read_labels(samples(labels)), "s")
    return term.kind, term.value, term.axis


def test_all_labels_are_read_and_those_that_do_not_count_left_out() -> None:
    found = read_labels(samples(np.array([[0, 255], [-1, 4], [3, 3], [1, 0], [2, 2], [1, 1]])))
    assert found == LabelSummary(True, 2, 0.0, 4.0, pytest.approx(1.61), 10)
    numbers = np.random.default_rng(0).standard_normal(COUNT)
    found = read_labels(samples(numbers))
    assert (found.classes, found.each, found.counted) == (False, 1, COUNT)
    assert found.variance == pytest.approx(numbers.var())


def test_the_first_output_that_fits_is_compared() -> None:
    assert terms(np.arange(COUNT) % 5) == (LossKind.CROSS_ENTROPY, "x", -1)  # what the Softmax reads
    assert terms(np.zeros((COUNT, 2), np.uint8)) == (LossKind.CROSS_ENTROPY, "m", -1)
    assert terms(np.linspace(0, 1, COUNT))[:2] == (LossKind.MSE, "s")
    assert terms(np.ones((COUNT, 5), np.float32))[:2] == (LossKind.MSE, "y")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "carry no labels"),
        (np.full(COUNT, -1), "all are -1 or 255"),
        (np.array([0, 1, 2, 3, 4, 5]), "a label is 5, and 'y' tells 5 classes"),
        (np.array([0, 1, 2, 3, 4, -2]), "a label is -2"),
        (np.array(["a"] * COUNT), "cannot be learned"),
        (np.array([0.5, np.nan, 1, 1, 1, 1]), "not finite"),
        (np.zeros((COUNT, 3), np.int64), "no output fits labels that are classes, a score for each, 3 of each sample"),
        (np.zeros((COUNT, 3)), "no output fits labels that are numbers, 3 of each sample"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(labels: np.ndarray | None, words: str) -> None:
    with pytest.raises(DataError) as caught:
        terms(labels)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert caught.value.hint
    assert caught.value.where
