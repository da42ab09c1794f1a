"""The loss that is estimated without labels is right on average where the reference is calibrated, with less noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxslim.quality.expected import UNREADABLE, expected_drop, expected_row, log_probabilities, normal_below


def rows(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    return np.array([expected_row(one[None], other[None]) for one, other in zip(reference, candidate, strict=True)])


def calibrated(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits of a calibrated reference, of a candidate, and labels drawn from what the reference believes."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, 5)) * 4
    labels = (np.exp(log_probabilities(logits)).cumsum(1) < generator.random((count, 1))).sum(1)
    return logits, logits * 0.9 + noise * generator.normal(size=logits.shape), labels


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_the_estimate_is_right_where_the_reference_is_calibrated(noise: float) -> None:
    reference, candidate, labels = calibrated(20_000, noise)
    true = (reference.argmax(1) == labels).mean() - (candidate.argmax(1) == labels).mean()
    assert expected_drop(rows(reference, candidate)) == pytest.approx(true, rel=0.25, abs=0.002)


def test_it_varies_less_than_flips_do() -> None:
    reference, candidate, _ = calibrated(20_000, 1.0)
    kept = rows(reference, candidate).reshape(100, 200, -1)
    estimates = np.array([expected_drop(draw) for draw in kept])
    flips = kept[:, :, 4].mean(1)
    assert estimates.std() < 0.5 * flips.std()


def test_a_model_that_is_the_same_but_for_its_temperature_loses_nothing() -> None:
    reference, _, _ = calibrated(500, 0.0)
    assert expected_drop(rows(reference, reference)) == 0
    assert expected_drop(rows(reference, 0.3 * reference)) == pytest.approx(0, abs=1e-12)
    assert expected_drop(rows(reference, -reference)) > 0.5


def test_probabilities_and_logits_say_the_same() -> None:
    reference, candidate, _ = calibrated(300, 1.0)
    shares = [np.exp(log_probabilities(each)) for each in (reference, candidate)]
    assert expected_drop(rows(*shares)) == pytest.approx(expected_drop(rows(reference, candidate)), rel=1e-3)


def test_scores_that_are_no_beliefs_are_not_believed() -> None:
    generator = np.random.default_rng(0)
    cosines = generator.uniform(0.1, 0.3, (400, 10))
    assert expected_drop(rows(cosines, cosines[::-1])) > 0.7, "flips are counted"


@pytest.mark.parametrize("taken", [2.0, 6.0, 1e3])
def test_harm_that_is_no_noise_is_not_overlooked(taken: float) -> None:
    """One class gets less than it should, up to nothing at all."""
    reference, _, labels = calibrated(4000, 0.0)
    candidate = reference.copy()
    candidate[:, 2] -= taken
    true = (reference.argmax(1) == labels).mean() - (candidate.argmax(1) == labels).mean()
    assert expected_drop(rows(reference, candidate)) >= 0.8 * true


def test_what_cannot_be_read_is_lost() -> None:
    reference, _, _ = calibrated(100, 0.0)
    kept = rows(reference, reference)
    assert expected_drop(np.array([UNREADABLE] * 100)) == 1.0
    kept[:50] = UNREADABLE
    assert expected_drop(kept) == pytest.approx(0.5)


def test_masked_classes_are_dealt_with() -> None:
    scores = np.array([[3.0, 1.0, -np.inf], [0.5, 4.0, -np.inf]])
    assert np.isfinite(rows(scores, scores * 1.1)).all()


@given(
    hnp.arrays(np.float64, (6, 4), elements=st.floats(-50, 50)),
    hnp.arrays(np.float64, (6, 4), elements=st.floats(-50, 50)),
)
def test_it_is_a_share_whatever_the_scores(reference: np.ndarray, candidate: np.ndarray) -> None:
    assert -1e-12 <= expected_drop(rows(reference, candidate)) <= 1


def test_the_normal_distribution() -> None:
    x = np.linspace(-8, 8, 200)
    exact = [0.5 * math.erfc(-each / math.sqrt(2)) for each in x]
    np.testing.assert_allclose(normal_below(x), exact, atol=1e-7)
