from __future__ import annotations

import math

import numpy as np
import pytest
from classifier import classifier
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import synthetic_samples
from onnxslim.observe import deviation
from onnxslim.observe.deviation import Deviation, compare_values
from onnxslim.runtime.session import Session

VALUES = ["hidden", "same", "positive", "logits"]


def scaled(by: float):
    model = classifier()
    weight = model.graph.initializers["w2"]
    weight.const_value = (
        from_text(
            '<ir_version: 10, opset_import: ["": 18]> g (float[1] x, float[64, 4] w) => (float[1] y) { y = Relu (x) }',
            w=weight.const_value.numpy() * np.float32(by),
        )
        .graph.initializers["w"]
        .const_value
    )
    return model


@pytest.mark.parametrize("most", [1, 10**9])
def test_the_error_is_that_of_the_values(monkeypatch, most: int):
    monkeypatch.setattr(deviation, "MOST_BYTES", most)
    before = classifier()
    infer_shapes(before)
    found = compare_values(before, scaled(1.1), VALUES, synthetic_samples(before, 4, 0), Session.of)
    assert [found[name].noise for name in VALUES[:3]] == [0, 0, 0]
    assert found["same"].sqnr_db is None
    assert found["logits"].sqnr_db == pytest.approx(20, abs=0.1)  # a tenth of the amplitude


def test_what_cannot_be_compared_says_why():
    deviation = Deviation()
    deviation.add(np.zeros((1, 3)), np.zeros((1, 2)))
    assert deviation.reason == "another shape: [1, 2], which was [1, 3]"
    other = Deviation()
    other.add(np.ones(2), np.array([1.0, math.nan]))
    assert (other.reason, other.sqnr_db) == ("it is not finite", None)


def test_values_that_are_no_floats_are_left_out():
    before = classifier()  # without types inside: nothing was inferred
    assert "hidden" not in compare_values(before, before, ["hidden"], synthetic_samples(before, 1, 0), Session.of)
