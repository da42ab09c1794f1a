"""Zeros that a cut has made stay zero; zeros that are there by rounding, or at the start, do not."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim.train.sparsity import moving_elements, moving_integers

DRAWN = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def test_zeros_of_a_weight_that_was_cut_stay() -> None:
    cut = np.where(np.abs(DRAWN) < 0.3, 0, DRAWN)
    moving = moving_elements(cut)
    assert moving is not None
    np.testing.assert_array_equal(moving, cut != 0)
    assert moving_elements(DRAWN) is None


def test_biases_that_begin_at_zero_move() -> None:
    assert moving_elements(np.zeros(64, np.float32)) is None
    assert moving_elements(np.zeros((0, 4), np.float32)) is None


@pytest.mark.parametrize("levels", [127, 7, 2])
def test_integers_that_are_zero_by_rounding_move_and_those_that_were_cut_do_not(levels: int) -> None:
    step = 3.0 / levels
    assert moving_integers(np.clip(np.rint(DRAWN / step), -levels, levels)) is None
    cut = np.where(np.abs(DRAWN) < 0.7, 0, DRAWN)
    integers = np.clip(np.rint(cut / step), -levels, levels)
    if levels > 2:  # of so few integers most are 0 in any case
        np.testing.assert_array_equal(moving_integers(integers), integers != 0)
