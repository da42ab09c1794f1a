from __future__ import annotations

import numpy as np
import pytest
from onnxslim.passes.sparsify.selection import Pattern, least, read_pattern, shares

from onnxslim.errors import BadOptionValue


def test_the_least_important_of_all_become_zero():
    scores = np.array([[3.0, 1.0], [0.5, 2.0]])
    assert least(scores, 0.5, Pattern()).tolist() == [[False, True], [True, False]]


def test_of_each_four_neighbours_two_stay():
    scores = np.random.default_rng(0).random((3, 8))
    gone = least(scores, 0.1, Pattern(2, 4)).reshape(3, 2, 4)
    assert (gone.sum(axis=-1) == 2).all()
    neighbours = scores.reshape(3, 2, 4)
    assert (np.where(gone, neighbours, 0).max(-1) <= np.where(gone, np.inf, neighbours).min(-1)).all()


def test_global_shares_add_up_and_empty_no_layer():
    generator = np.random.default_rng(0)
    weights = {
        "small": generator.standard_normal(100) * 0.01,
        "flat": np.ones(400),
        "large": generator.standard_normal(500),
    }
    found = shares(weights, 0.5)
    assert sum(found[name] * weight.size for name, weight in weights.items()) == pytest.approx(500, abs=2)
    assert all(share < 1 for share in found.values())


@pytest.mark.parametrize("text", ["4:2", "2-4", "0:4", "", "1:1000"])
def test_patterns_that_are_none(text):
    with pytest.raises(BadOptionValue, match="pattern is"):
        read_pattern(text)
