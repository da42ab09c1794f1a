"""The budget: how much of it a pass may use, and whether what was lost is within it, point estimate or bound."""

from __future__ import annotations

import dataclasses
import math
import statistics

from onnxslim.runtime.statistics import NORMAL_QUANTILE, Interval

PASSED_ON = 0.5
"""The part of what is left of the budget that a lossy pass leaves to those behind it. The last one may use all."""
MOST_SAMPLES = 10_000_000
"""Where more samples than this would be needed, no number is told."""


@dataclasses.dataclass(frozen=True)
class Allowance:
    """What may have been lost against the original once a pass is done, as fractions."""

    limit: float
    """By the point estimate, now."""
    total: float
    """In the end: the budget."""
    confidence: float | None = None
    """How sure it must be that the budget holds; None: the point estimate decides."""

    def bound(self, loss: Interval) -> float:
        """Return what is lost at most, with the confidence that is asked for; the estimate itself where none is."""
        return loss.value if self.confidence is None else upper_bound(loss, self.confidence)

    def charged(self, loss: Interval) -> float:
        """Return the loss as it counts against `limit`: more than was estimated where the bound is what misses."""
        return max(loss.value, self.limit + self.bound(loss) - self.total)

    def holds(self, loss: Interval) -> bool:
        """Whether so much may be lost."""
        return loss.value <= self.limit and self.bound(loss) <= self.total


def allowance(budget: float, spent: float, later: int, confidence: float | None = None) -> Allowance:
    """Return what a pass may use of the budget.

    Half of what is left goes to each pass, so that none takes it all from those behind it, and what a pass does not
    use is there for the next; the last one, with none `later`, may use all. What was won before does not count.
    """
    left = max(0.0, budget - max(0.0, spent))
    share = 1 - PASSED_ON if later else 1.0
    # The last pass may have it all, and 0.01 - x + x is not always 0.01.
    return Allowance(budget - left * (1 - share) if left else budget, budget, confidence)


def upper_bound(loss: Interval, confidence: float) -> float:
    """Return the one-sided upper bound of a loss, as far above the estimate as its 95 % interval is wide there."""
    deviation = (loss.high - loss.value) / NORMAL_QUANTILE
    return loss.value + statistics.NormalDist().inv_cdf(confidence) * deviation


def settled(loss: Interval, budget: float) -> bool:
    """Whether the whole interval lies on one side of the budget."""
    return loss.high <= budget or loss.low > budget


def samples_to_settle(loss: Interval, budget: float, samples: int) -> int | None:
    """Return how many samples would make the interval lie on one side of the budget; None where it is too many.

    It came from `samples` of them, and gets narrower by their square root.
    """
    reach = loss.high - loss.value if loss.value <= budget else loss.value - loss.low
    distance = abs(budget - loss.value)
    if distance * math.sqrt(MOST_SAMPLES / max(samples, 1)) <= reach:
        return None
    return math.ceil(samples * (reach / distance) ** 2)
