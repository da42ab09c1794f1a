"""Accuracy: top-1 by hand, metrics of the user's own, and what cannot be scored."""

import numpy as np
import pytest

from onnxslim.data import Samples, open_samples
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.runner.accuracy import load_metric, measure_accuracy, top1
from onnxslim.runner.session import TensorSpec

INPUT = TensorSpec("x", np.dtype(np.float32), ("N", 3))
LOGITS = np.array([[1, 2, 3], [3, 2, 1], [1, 5, 1], [2, 1, 1]], np.float32)
LABELS = np.array([2, 0, 1, 1])


class Echo:
    """Stands for a session that gives its input back."""

    def run(self, feeds):
        return {"y": feeds["x"]}


def samples(labels: np.ndarray | None = LABELS) -> Samples:
    return open_samples({"x": LOGITS} | ({} if labels is None else {"labels": labels}), (INPUT,))


@pytest.mark.parametrize("size", [None, 3])
def test_top1_with_its_interval(size: int | None) -> None:
    interval = measure_accuracy(Echo(), samples(), size=size)
    assert interval.value == 0.75
    assert interval.low == pytest.approx(0.3006, abs=1e-4)  # Wilson, 3 of 4
    assert interval.high == pytest.approx(0.9544, abs=1e-4)


def test_top1_looks_for_the_logits() -> None:
    assert top1({"boxes": np.ones((4, 1), np.float32), "y": LOGITS}, LABELS).tolist() == [1, 1, 1, 0]
    assert top1({"y": LOGITS[:, :, None, None]}, LABELS[:, None]).tolist() == [1, 1, 1, 0]
    assert top1({"best": np.array([2, 2, 1, 1])}, LABELS).tolist() == [1, 0, 1, 1]


def test_nan_is_never_right() -> None:
    assert top1({"y": np.array([[np.nan, 1.0]])}, np.array([0])).tolist() == [0]


@pytest.mark.parametrize("labels", [LABELS.astype(np.float32), np.ones((4, 7), np.int64)])
def test_labels_that_are_no_classes_want_another_metric(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="no class numbers") as caught:
        measure_accuracy(Echo(), samples(labels))
    assert "--metric" in caught.value.hint


def test_outputs_without_classes_want_another_metric() -> None:
    with pytest.raises(DataError, match="no output holds classes"):
        top1({"y": np.ones((4, 1), np.float32), "z": [1]}, LABELS)


def test_without_labels_there_is_no_accuracy() -> None:
    with pytest.raises(DataError, match="no labels"):
        measure_accuracy(Echo(), samples(None))


def test_a_metric_of_ones_own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mymetric.py").write_text(
        "def closeness(outputs, labels):\n    return 1 / (1 + abs(outputs['y'][:, 0] - labels))\n"
    )
    monkeypatch.chdir(tmp_path)
    metric = load_metric("mymetric:closeness")
    interval = measure_accuracy(Echo(), samples(), metric)
    assert interval.value == pytest.approx((1 / 2 + 1 / 4 + 1 + 1 / 2) / 4)
    assert interval.low < interval.value < interval.high
    assert interval == measure_accuracy(Echo(), samples(), metric, generator=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nocolon", "does not read"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("math:nosuch", "has no 'nosuch'"),
        ("math:pi", "no function"),
    ],
)
def test_a_metric_that_is_not_there(text: str, says: str) -> None:
    with pytest.raises(BadOptionValue, match=says):
        load_metric(text)


def test_a_module_that_raises(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_metric.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadOptionValue, match="raised ZeroDivisionError"):
        load_metric("raising_metric:f")


def test_a_metric_that_raises_or_gives_too_little() -> None:
    def raises(outputs, labels):
        raise KeyError("logits")

    with pytest.raises(BadOptionValue, match="raised KeyError"):
        measure_accuracy(Echo(), samples(), raises)
    with pytest.raises(BadOptionValue, match="gave 2 scores for 1 samples"):
        measure_accuracy(Echo(), samples(), lambda outputs, labels: np.ones(2))


def test_no_sample_no_accuracy() -> None:
    with pytest.raises(DataError, match="not a single sample"):
        measure_accuracy(Echo(), samples().take(0))
