"""What is compared: along the axis of classes, scaled by what the teacher gives, and labels where they can be."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.train.losses import LossKind
from onnxslim.train.terms import OutputLoss, TermSettings, output_terms

HEADER = '<ir_version: 8, opset_import: ["" : 18]> g '
SETTINGS = TermSettings(OutputLoss.KL, 1.0, 0.5, 1.0)


@pytest.mark.parametrize(("shape", "axis"), [("2,5", -1), ("2,7,5", -1), ("2,5,8,8", 1)])
def test_maps_of_classes_are_compared_along_their_channels(shape: str, axis: int) -> None:
    model = from_text(HEADER + f"(float[{shape}] x) => (float[{shape}] y) {{ y = Relu (x) }}")
    array = np.ones([int(size) for size in shape.split(",")], np.float32)
    terms = output_terms(model.graph, {"y": array}, SETTINGS, True, len(array))
    assert [(term.kind, term.axis) for term in terms] == [(LossKind.KL, axis), (LossKind.CROSS_ENTROPY, axis)]


def test_an_output_that_is_constant_does_not_count_as_all_that_there_is() -> None:
    model = from_text(HEADER + "(float[4] x) => (float[4] y, float[4] z) { y = Relu (x)  z = Tanh (x) }")
    settings = TermSettings(OutputLoss.MSE, 1.0, 0.0, 1.0)
    for constant, expected in ((10.0, 1e-2), (0.0, 1.0)):
        taught = {"y": np.full(4, constant, np.float32), "z": np.array([-1, 1, -1, 1], np.float32)}
        terms = output_terms(model.graph, taught, settings, False, 1)
        assert [term.variance for term in terms] == pytest.approx([expected, 1.0])


def test_parts_of_an_output_that_differ_in_scale_count_alike() -> None:
    model = from_text(HEADER + "(float[8,22,50] x) => (float[8,22,50] y) { y = Abs (x) }")
    generator = np.random.default_rng(0)
    array = generator.random((8, 22, 50)).astype(np.float32)
    array[:, :4] *= 320  # boxes in pixels, scores in probabilities
    (term,) = output_terms(model.graph, {"y": array}, TermSettings(OutputLoss.AUTO, 1.0, 0.0, 1.0), False, 8)
    for part in (slice(0, 4), slice(4, 22)):
        constant = array.copy()
        constant[:, part] = array[:, part].mean()
        assert np.mean((array - constant) ** 2 / term.variance) == pytest.approx(0.5, rel=1e-3)
    (alike,) = output_terms(model.graph, {"y": array[:, 4:]}, TermSettings(OutputLoss.AUTO, 1.0, 0.0, 1.0), False, 8)
    assert alike.variance == pytest.approx(1 / 12, rel=0.05)
    (turned,) = output_terms(model.graph, {"y": array}, TermSettings(OutputLoss.AUTO, 1.0, 0.0, 1.0), False, 22)
    assert np.ndim(turned.variance) == 0, "what differs may be samples"


def test_what_is_next_to_nothing_does_not_count_as_much() -> None:
    model = from_text(HEADER + "(float[64,5] x) => (float[64,5] y) { y = Abs (x) }")
    settings = TermSettings(OutputLoss.AUTO, 1.0, 0.0, 1.0)
    array = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    array[:, 4] *= 1e-9
    (term,) = output_terms(model.graph, {"y": array}, settings, False, 64)
    assert np.min(term.variance) > 1e-9 * np.max(term.variance)
    array[0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        (term,) = output_terms(model.graph, {"y": array}, settings, False, 64)
    assert np.ndim(term.variance) == 0


def test_labels_without_an_output_for_them_take_no_share() -> None:
    model = from_text(HEADER + "(float[4] x) => (float[4] y) { y = Relu (x) }")
    taught = {"y": np.arange(4, dtype=np.float32)}
    (term,) = output_terms(model.graph, taught, TermSettings(OutputLoss.AUTO, 1.0, 1.0, 1.0), True, 1)
    assert term.weight == 1
