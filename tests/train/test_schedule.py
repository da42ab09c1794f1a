"""The learning rate: it rises to its highest, falls along half a cosine, and never is nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim.train.schedule import Schedule


@given(st.integers(1, 500), st.floats(0, 1))
def test_it_rises_and_then_falls_and_stays_between_nothing_and_the_highest(steps: int, warm_up: float) -> None:
    schedule = Schedule(0.1, steps, warm_up)
    rates = [schedule(step) for step in range(steps)]
    top = max(range(steps), key=lambda step: round(rates[step], 12))
    assert all(0 < rate <= 0.1 * (1 + 1e-12) for rate in rates)
    rises = [later - sooner for sooner, later in itertools.pairwise(rates)]
    assert all(rise >= -1e-12 for rise in rises[:top])
    assert all(rise <= 1e-12 for rise in rises[top:])


def test_it_ends_at_its_last_share() -> None:
    schedule = Schedule(1.0, 100, warm_up=0.1, last=0.02)
    assert schedule(9) == 1.0
    assert schedule(55) == pytest.approx(0.51)
    assert schedule(100) == pytest.approx(0.02)
