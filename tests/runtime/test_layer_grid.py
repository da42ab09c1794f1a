"""Times between measured widths: exact where they grow with each width, and never beyond what was measured."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.runtime.layer_grid import LatencyGrid, LayerGrid


def linear(one: float, other: float) -> float:
    return 3.0 + 2.0 * one + 5.0 * other + 0.5 * one * other


TWO = LatencyGrid(((8, 16, 64), (4, 32)), np.array([[linear(a, b) for b in (4, 32)] for a in (8, 16, 64)]))
ONE = LatencyGrid(((10, 20),), np.array([1.0, 2.0]))
FIXED = LatencyGrid((), np.array(7.0))


@given(one=st.integers(8, 64), other=st.integers(4, 32))
@settings(max_examples=50, deadline=None)
def test_what_is_linear_along_each_width_is_exact(one: int, other: int) -> None:
    times = LayerGrid([TWO, ONE, FIXED])(np.array([[one, other], [15.0, 0], [0, 0]]))
    np.testing.assert_allclose(times, [linear(one, other), 1.5, 7.0])


def test_beyond_what_was_measured_the_nearest_counts() -> None:
    times = LayerGrid([TWO, ONE])(np.array([[1.0, 100.0], [99.0, 0.0]]))
    np.testing.assert_allclose(times, [linear(8, 32), 2.0])


def test_no_layers_take_no_time() -> None:
    assert LayerGrid([])(np.zeros((0, 0))).sum() == 0
