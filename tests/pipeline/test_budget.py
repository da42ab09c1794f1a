"""What a pass may use of the budget, and how sure that is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim.pipeline.budget import Allowance, allowance, samples_to_settle, settled, upper_bound
from onnxslim.runtime.statistics import Interval

fractions = st.floats(0, 1)


def test_half_of_what_is_left_goes_to_each_and_all_of_it_to_the_last() -> None:
    assert allowance(0.01, 0.0, later=2).limit == pytest.approx(0.005)
    assert allowance(0.01, 0.004, later=1).limit == pytest.approx(0.007)
    assert allowance(0.01, 0.007, later=0).limit == 0.01
    assert allowance(0.01, -0.2, later=1).limit == pytest.approx(0.005), "what was won does not count"


@given(fractions, fractions, st.integers(0, 5))
def test_no_pass_may_use_more_than_there_is_and_each_may_use_something(budget: float, spent: float, later: int) -> None:
    allowed = allowance(budget, spent, later)
    assert 0 <= allowed.limit <= allowed.total == budget
    assert allowed.limit >= min(spent, budget) - 1e-12, "the model as it stands holds, if it did before"


def test_with_confidence_the_bound_must_be_within_the_budget() -> None:
    loss = Interval(0.004, -0.002, 0.016)
    assert Allowance(0.005, 0.01).holds(loss)
    assert not Allowance(0.005, 0.01, 0.95).holds(loss)
    assert Allowance(0.005, 0.01, 0.6).holds(loss)
    assert upper_bound(loss, 0.975) == pytest.approx(loss.high)
    assert upper_bound(loss, 0.5) == pytest.approx(loss.value)


@given(st.floats(-0.02, 0.05), st.floats(0, 0.05), st.floats(0.5, 0.999), st.floats(0, 0.01))
def test_what_counts_is_over_the_limit_exactly_where_it_does_not_hold(
    value: float, reach: float, confidence: float, limit: float
) -> None:
    loss, allowed = Interval(value, value - reach, value + reach), Allowance(limit, 0.01, confidence)
    if abs(allowed.charged(loss) - limit) > 1e-12:  # else it is rounding that decides
        assert allowed.holds(loss) == (allowed.charged(loss) <= limit)


def test_how_many_samples_would_settle_it() -> None:
    loss = Interval(0.008, 0.0, 0.016)
    assert not settled(loss, 0.01)
    assert samples_to_settle(loss, 0.01, 100) == 1600, "four times as narrow"
    assert settled(Interval(0.002, 0.0, 0.01), 0.01)
    assert samples_to_settle(Interval(0.01, 0.0, 0.02), 0.01, 100) is None
