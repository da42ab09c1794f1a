"""Adaptive rounding: it begins at the rounding there was, moves by the loss, and ends on whole levels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.model.edit import Editor
from onnxslim.runtime.session import Session
from onnxslim.train.adaptive_rounding import BETA, STRENGTH, AdaptiveRounding, RoundingSchedule
from onnxslim.train.fake_quantization import QuantizedStudent, quantized_student

SCALES = np.array([0.5, 0.25, 1.0, 0.1], np.float32)
X = np.eye(4, dtype=np.float32)


def model_of(real: np.ndarray, levels: np.ndarray) -> ir.Model:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,4] y) {
        w = DequantizeLinear <axis = 1> (q, s)  y = MatMul (x, w) }"""
    return from_text(text, q=levels.astype(np.int8), s=SCALES)


def student_of(real: np.ndarray, levels: np.ndarray, *, hard: bool) -> tuple[QuantizedStudent, AdaptiveRounding]:
    model = model_of(real, levels)
    rounding = AdaptiveRounding({"q": real}, hard=hard)
    return quantized_student(model, model.clone(), rounding), rounding


@pytest.fixture
def real() -> np.ndarray:
    return (np.random.default_rng(0).uniform(-5, 5, (4, 4)) * SCALES).astype(np.float32)


def test_it_begins_half_way_between_what_was_rounded_and_what_it_was_rounded_to(real: np.ndarray) -> None:
    random = np.random.default_rng(1)
    levels = np.floor(real / SCALES) + random.integers(0, 2, real.shape)  # up or down, not to the nearest
    soft, hard = (student_of(real, levels, hard=hard)[0].model for hard in (False, True))
    rounded = levels * SCALES
    np.testing.assert_allclose(Session.of(soft).run({"x": X})["y"], (real + rounded) / 2, atol=1e-5)
    np.testing.assert_allclose(Session.of(hard).run({"x": X})["y"], rounded, atol=1e-5)


def test_what_was_learned_are_levels_beside_the_real_numbers(real: np.ndarray) -> None:
    student, rounding = student_of(real, np.rint(real / SCALES), hard=True)
    (stored,) = student.stored
    parameter = np.random.default_rng(2).standard_normal(real.shape).astype(np.float32)
    learned = rounding.learned(stored, parameter)
    levels = stored.rounded(learned)
    np.testing.assert_allclose(learned, levels * SCALES, atol=1e-6)
    np.testing.assert_array_equal(levels, np.where(parameter > 0, np.ceil(real / SCALES), np.floor(real / SCALES)))
    student.model.graph.initializers[stored.name].const_value = ir.tensor(parameter, name=stored.name)
    np.testing.assert_allclose(Session.of(student.model).run({"x": X})["y"], learned, atol=1e-6)


def test_levels_stay_within_those_that_the_type_has() -> None:
    real = np.full((4, 4), 1e3, np.float32) * np.array([1, -1, 1, -1], np.float32)
    student, rounding = student_of(real, np.sign(real) * 127, hard=False)
    (stored,) = student.stored
    for sign in (1, -1):
        levels = rounding.learned(stored, np.full(real.shape, sign, np.float32)) / stored.scale
        assert levels.min() >= -128
        assert levels.max() <= 127
    np.testing.assert_allclose(
        Session.of(student.model).run({"x": X})["y"], np.sign(real) * (127.5 - np.sign(real) * 0.5) * SCALES, rtol=5e-3
    )


def test_what_is_undecided_counts_until_it_is_at_an_end(real: np.ndarray) -> None:
    student, rounding = student_of(real, np.rint(real / SCALES), hard=False)
    graph = student.model.graph
    (stored,) = student.stored
    graph.outputs.append(rounding.undecided(Editor(student.model), [stored.name]))
    name = graph.outputs[-1].name or ""

    def undecided(parameter: float) -> float:
        array = np.full(real.shape, parameter, np.float32)
        graph.initializers[stored.name].const_value = ir.tensor(array, name=stored.name)
        feeds = {"x": X, BETA: np.array(2, np.float32), STRENGTH: np.array(3, np.float32)}
        return float(Session.of(student.model).run(feeds)[name])

    found = [undecided(parameter) for parameter in (0.0, 0.5, 1.0, 4.0)]
    assert found[0] == pytest.approx(3.0)
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0.0


def test_the_exponent_falls_and_nothing_is_driven_at_first() -> None:
    schedule = RoundingSchedule(100, 7.0)
    told = [schedule(step) for step in range(100)]
    assert {float(each[STRENGTH]) for each in told[:20]} == {0.0}
    assert {float(each[STRENGTH]) for each in told[20:]} == {7.0}
    exponents = [float(each[BETA]) for each in told]
    assert exponents == sorted(exponents, reverse=True)
    assert exponents[0] == schedule.first
    assert exponents[-1] == pytest.approx(schedule.last, abs=0.01)
