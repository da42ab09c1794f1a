"""Numbers that say how sure they are: values with intervals, and values that could not be measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

NORMAL_QUANTILE = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: all intervals here are 95 % ones."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, all in the unit of the value."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """A figure, or the reason why there is none (`reason` is None exactly where `value` is not)."""

    value: float | None
    reason: str | None = None


def wilson(successes: float, trials: int) -> Interval:
    """Return the share `successes / trials` with its Wilson score interval.

    It stays within [0, 1] and is not empty at 0 or 1, which the normal approximation is. `successes` may be fractional:
    a sample of several decisions counts the share of them that succeeded, and so weighs no more than one trial.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).

    Raises:
        ValueError: There were no trials, or not `0 <= successes <= trials`.
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
        rows: The observations along the first axis, shape [n, ...], n >= 1. They are drawn whole: what is paired
            within a row stays paired.
        statistic: Maps an array of the shape of `rows` to one number.
        generator: Where the draws come from.
        resamples: How many times to draw n rows with replacement.

    Source: B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7 (1979).

    Raises:
        ValueError: There are no rows.
    """
    count = len(rows)
    if count == 0:
        raise ValueError("nothing to draw from")
    value = float(statistic(rows))
    draws = [float(statistic(rows[generator.integers(0, count, count)])) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def paired_difference(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> Interval:
    """Return the fall of a share, ``mean(before) - mean(after)``, with its 95 % interval.

    Only samples on which the two differ widen it, so it is far narrower than two unpaired intervals let it seem; and it
    is not empty where no sample differs, which a bootstrap is.

    Args:
        before: Shares of what was right, from 0 to 1, one a sample, shape [n].
        after: The same samples afterwards, shape [n].

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
