"""Intervals: known values, bounds, and that they cover what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim.runtime.statistics import bootstrap, paired_difference, wilson


def test_wilson_agrees_with_a_published_value() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, method 3
    interval = wilson(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("successes", "low", "high"), [(0, 0.0, 0.2775), (10, 0.7225, 1.0)])
def test_wilson_is_not_empty_at_the_ends(successes: int, low: float, high: float) -> None:
    interval = wilson(successes, 10)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_wilson_brackets_the_share(pair: tuple[float, int]) -> None:
    interval = wilson(*pair)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_cannot_be(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="trials"):
        wilson(successes, trials)


def test_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(5.0, 2.0, 400)
    interval = bootstrap(rows, lambda r: float(r.mean()), generator)
    assert interval.value == rows.mean()
    # 2 * 1.96 * sigma / sqrt(n) = 0.392; the percentile bootstrap of 1000 draws is within some 10 % of that
    assert interval.high - interval.low == pytest.approx(0.392, rel=0.15)


def test_bootstrap_keeps_rows_whole() -> None:
    rows = np.stack([np.arange(50.0), 2 * np.arange(50.0)], axis=1)
    interval = bootstrap(rows, lambda r: float(r[:, 1].sum() / r[:, 0].sum()), np.random.default_rng(0))
    assert interval.low == interval.high == interval.value == 2.0


def test_bootstrap_is_reproducible_and_needs_rows() -> None:
    rows = np.random.default_rng(1).random(30)
    one, two = (bootstrap(rows, lambda r: float(np.median(r)), np.random.default_rng(7)) for _ in range(2))
    assert one == two
    with pytest.raises(ValueError, match="nothing"):
        bootstrap(rows[:0], lambda r: 0.0, np.random.default_rng(0))


def test_a_paired_difference_covers_what_it_promises() -> None:
    generator = np.random.default_rng(0)
    covered, trials = 0, 400
    for _ in range(trials):  # 90 % right; 3 % of those lost, 10 % of others won: 1.7 points
        before = generator.random(300) < 0.9
        after = np.where(before, generator.random(300) >= 0.03, generator.random(300) < 0.1)
        interval = paired_difference(before.astype(float), after.astype(float))
        covered += interval.low <= 0.017 <= interval.high
    assert covered / trials > 0.93


def test_a_paired_difference_without_any_is_no_certainty() -> None:
    ones = np.ones(100)
    interval = paired_difference(ones, ones)
    assert interval.value == 0.0
    assert interval.low < 0 < interval.high < 0.03
    with pytest.raises(ValueError, match="nothing"):
        paired_difference(ones[:0], ones[:0])
