"""Metrics of the user's own: scores of a function, and what cannot be scored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxslim.data import Samples, open_samples
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.metrics.classification import Classification
from onnxslim.quality.choosing import MetricRequest, choose_metric
from onnxslim.quality.custom import Custom, load_metric
from onnxslim.quality.measure import Quality, measure_quality
from onnxslim.quality.metric import Metric, Recognition
from onnxslim.runtime.session import TensorSpec

INPUT = TensorSpec("x", np.dtype(np.float32), ("N", 3))
LOGITS = np.array([[1, 2, 3], [3, 2, 1], [1, 5, 1], [2, 1, 1]], np.float32)
LABELS = np.array([2, 0, 1, 1])


class Echo:
    """Stands for a session that gives its input back."""

    outputs = (TensorSpec("y", np.dtype(np.float32), ("N", 3)),)
    inputs = (INPUT,)

    def run(self, feeds: dict[str, Any], names: object = None) -> dict[str, Any]:
        return {"y": feeds["x"]}


def samples(labels: np.ndarray | None = LABELS) -> Samples:
    return open_samples({"x": LOGITS} | ({} if labels is None else {"labels": labels}), (INPUT,))


def measured(metric: Metric, given: Samples | None = None, size: int | None = None) -> Quality:
    recognition = Recognition(metric, 1.0, "asked for")
    generator = np.random.default_rng(0)
    return measure_quality(recognition, Echo(), Echo(), given or samples(), generator=generator, size=size)


@pytest.mark.parametrize("size", [None, 3])
def test_accuracy_with_its_interval(size: int | None) -> None:
    (figure,) = measured(Classification("y", classes=3), size=size).figures
    assert figure.name == "top-1"
    assert figure.before == figure.after
    assert figure.before.value == 0.75
    assert figure.before.low == pytest.approx(0.3006, abs=1e-4)  # Wilson, 3 of 4
    assert figure.before.high == pytest.approx(0.9544, abs=1e-4)


def test_a_function_scores(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mymetric.py").write_text(
        "def closeness(outputs, labels):\n    return 1 / (1 + abs(outputs['y'][:, 0] - labels))\n"
    )
    monkeypatch.chdir(tmp_path)
    metric = load_metric("mymetric:closeness")
    assert isinstance(metric, Metric)
    quality = measured(metric)
    (figure,) = quality.figures
    assert figure.after.value == pytest.approx((1 / 2 + 1 / 4 + 1 + 1 / 2) / 4)
    assert figure.after.low < figure.after.value < figure.after.high
    assert (figure.change.value, quality.loss.value, quality.lost) == (0.0, 0.0, "mymetric:closeness")
    assert quality.figures == measured(metric).figures, "the same draws always"


def test_a_metric_of_ones_own_may_be_a_class(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ownmetric.py").write_text(
        "from onnxslim.metrics.classification import Classification\n\n\n"
        "class Mine(Classification):\n    name = 'mine'\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_metric("ownmetric:Mine").name == "mine"


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
        measured(Custom(raises, "raises"))
    with pytest.raises(BadOptionValue, match="gave 2 scores for 1 samples"):
        measured(Custom(lambda outputs, labels: np.ones(2), "two"))


def test_no_sample_no_quality() -> None:
    with pytest.raises(DataError, match="not a single sample"):
        measured(Classification("y"), samples().draw(0))


def test_what_is_no_number_counts_as_nothing() -> None:
    quality = measured(Custom(lambda outputs, labels: np.full(len(labels), np.nan), "nan"))
    assert quality.figures[0].after.value == 0.0


def test_without_labels_a_function_gives_way_to_what_fits() -> None:
    from sample_models import from_text

    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) { y = Identity (x) }'
    request = MetricRequest("m:f", Custom(lambda outputs, labels: np.ones(1), "m:f"))
    chosen = choose_metric(request, Echo(), from_text(text), samples(None))
    assert isinstance(chosen.metric, Classification)
    assert "--metric m:f needs labels" in chosen.reason
    assert choose_metric(request, Echo(), from_text(text), samples()).metric is request.given
