"""Estimates with confidence intervals, and values that could not be measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

NORMAL_QUANTILE = 1.959963984540054
"""The 97.5 % quantile of the normal distribution, for 95 % intervals."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, in the unit of the value."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """A measured value, or the reason why there is none (exactly one of the two is None)."""

    value: float | None
    reason: str | None = None


def wilson(successes: float, trials: int) -> Interval:
    """Return the share `successes / trials` with its Wilson score interval.

    It stays within [0, 1] and, unlike the normal approximation, is not empty at 0 or 1. `successes` may be fractional:
    a sample with several decisions counts as one trial, by its share of successful decisions.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).

    Raises:
        ValueError: `trials` is less than 1, or `successes` is outside [0, trials].
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    share = successes / trials
    square = NORMAL_QUANTILE**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    width = math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    spread = NORMAL_QUANTILE * width / (1 + square / trials)
    return Interval(share, max(0.0, min(share, centre - spread)), min(1.0, max(share, centre + spread)))


def bootstrap(
    rows: npt.NDArray[np.float64],
    statistic: Callable[[npt.NDArray[np.float64]], float],
    generator: np.random.Generator,
    resamples: int = 1000,
) -> Interval:
    """Return `statistic(rows)` with its 95 % percentile bootstrap interval.

    Args:
        rows: The observations along the first axis, shape [n, ...], n >= 1. Rows are drawn as a whole, so values
            paired within a row stay paired.
        statistic: Maps an array of the shape of `rows` to a number.
        generator: Random generator.
        resamples: Number of resamples, each of n rows drawn with replacement.

    Source: B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7 (1979).

    Raises:
        ValueError: There are no rows.
    """
    count = len(rows)
    if count == 0:
        raise ValueError("nothing to draw from")
    draws = [float(statistic(rows[generator.integers(0, count, count)])) for _ in range(resamples)]
    return percentile_interval(float(statistic(rows)), draws)


def percentile_interval(value: float, draws: Sequence[float] | npt.NDArray[np.float64]) -> Interval:
    """Return `value` with the 95 % percentile interval of its bootstrap draws, which holds the value in any case."""
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return Interval(value, min(value, low), max(value, high))


def paired_difference(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> Interval:
    """Return the fall of a share, ``mean(before) - mean(after)``, with its 95 % interval.

    Only samples that differ widen the interval, so it is far narrower than two unpaired intervals suggest; unlike a
    bootstrap, it is not empty if no sample differs.

    Args:
        before: Share of correct decisions of each sample, from 0 to 1, shape [n].
        after: The same for the second model, shape [n].

    Source: A. Agresti, Y. Min, Simple improved confidence intervals for comparing matched proportions, Statistics in
    Medicine 24 (2005): Wald's interval, half an observation added to each cell.

    Raises:
        ValueError: There are no samples.
    """
    if len(before) == 0:
        raise ValueError("nothing to compare")
    difference = before - after
    value = float(difference.mean())
    lost, won = float(difference.clip(min=0).sum()) + 0.5, float(-difference.clip(max=0).sum()) + 0.5
    total = len(before) + 2
    centre = (lost - won) / total
    spread = NORMAL_QUANTILE * math.sqrt(max(0.0, lost + won - (lost - won) ** 2 / total)) / total
    return Interval(value, min(value, centre - spread), max(value, centre + spread))
