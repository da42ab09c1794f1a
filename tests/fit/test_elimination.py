"""Second-order elimination: zeros where they were chosen, and outputs closer than those of the plain cut."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.fit.elimination import eliminate


def halves(scores):
    return np.argsort(np.argsort(scores, axis=1), axis=1) < scores.shape[1] // 2


@pytest.mark.parametrize("block", [4, 8, 32])
def test_what_stays_makes_up_for_what_goes(block):
    generator = np.random.default_rng(0)
    data = generator.standard_normal((500, 8)) @ generator.standard_normal((8, 32)) + 0.1 * generator.standard_normal(
        (500, 32)
    )
    weight = generator.standard_normal((6, 32))
    fitted = eliminate(weight, data.T @ data, halves, block)
    assert (np.sum(fitted == 0, axis=1) == 16).all()
    plain = np.where(halves(np.abs(weight)), 0, weight)
    wanted = data @ weight.T
    assert np.square(data @ fitted.T - wanted).sum() < 0.5 * np.square(data @ plain.T - wanted).sum()


def test_two_columns_by_hand():
    # x0 = x1 (nearly): when one goes, the other takes over its weight
    data = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    fitted = eliminate(np.array([[1.0, 2.0]]), data.T @ data, lambda scores: np.array([[True, False]]))
    assert fitted[0, 0] == 0
    assert fitted[0, 1] == pytest.approx(3.0, rel=0.02)


def test_uncorrelated_inputs_change_nothing_else():
    weight = np.array([[1.0, 2.0, 3.0]])
    fitted = eliminate(weight, np.eye(3), lambda scores: np.array([[False, True, False]]))
    assert np.allclose(fitted, [[1, 0, 3]])


def test_inputs_that_are_always_zero_do_no_harm():
    gram = np.diag([1.0, 0.0, 2.0])
    assert np.isfinite(eliminate(np.ones((2, 3)), gram, lambda scores: scores < np.median(scores))).all()
    assert np.isfinite(eliminate(np.ones((2, 3)), np.zeros((3, 3)), lambda scores: scores < 0)).all()
