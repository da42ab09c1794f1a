"""Decides which split each layer gets: by its own error, by its own rank, or by one budget for all layers."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence

from onnxslim.pipeline.reasons import Reason

from .candidates import SplitCandidate
from .codes import LowrankCode
from .factors import Factorization
from .layer import SMALLEST


class RankRule(enum.Enum):
    """The rule that chooses ranks."""

    ENERGY = "energy"
    """The fewest parameters that retain a share of the energy of the output of each layer."""
    PARAMS = "params"
    """A share of the parameters of all layers goes, where it costs the least error."""
    RANK = "rank"
    """A share of the full rank stays."""
    BREAK_EVEN = "break-even"
    """The largest rank that saves something."""


@dataclasses.dataclass(frozen=True)
class RankTarget:
    """The rule that chooses ranks, and its amount."""

    rule: RankRule
    amount: float = 0.0

    @property
    def most_error(self) -> float | None:
        """The largest error of each layer, as a share of the energy of its output; None where layers have no limit."""
        return 1 - self.amount if self.rule is RankRule.ENERGY else None


class Weighing(enum.Enum):
    """What tells how errors of the outputs of a layer matter."""

    LOCAL = "local"
    """The products that read them: see `output_metric` and `attention_metric`."""
    GRADIENTS = "gradients"
    """The outputs of the model, to first order: see `gradient_metric`; for layers that have none as LOCAL does."""


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """The options of the pass, as the splitting needs them."""

    target: RankTarget
    forms: tuple[Factorization, ...]
    align: int
    whiten: bool = True
    recover: bool = True
    size: bool = False
    """Splits need not be faster."""
    sensitivity: bool = True
    """Measure how much the error of each layer counts where they share a budget."""
    smallest: int = SMALLEST
    """Weights and tables with fewer numbers are left alone."""
    weighing: Weighing = Weighing.LOCAL


ErrorCost = Callable[[float], float]
"""Maps the error of a layer to the error of the outputs."""


def choose(
    parameters: Sequence[int],
    options: Sequence[Sequence[SplitCandidate]],
    target: RankTarget,
    error_costs: Sequence[ErrorCost] | None = None,
) -> list[SplitCandidate | None]:
    """Return the split of each layer, or table, None where it stays whole.

    Args:
        parameters: For each layer how many it has.
        options: The splits that each of them admits.
        target: The rule that chooses ranks.
        error_costs: The cost of an error of each layer where they share a budget; None: all alike.
    """
    if target.rule is RankRule.PARAMS:
        return budget(parameters, options, round(target.amount * sum(parameters)), error_costs)
    return [_alone(candidates, target) for candidates in options]


def _alone(candidates: Sequence[SplitCandidate], target: RankTarget) -> SplitCandidate | None:
    if target.rule is RankRule.ENERGY:
        enough = [candidate for candidate in candidates if candidate.error <= 1 - target.amount]
        return min(enough, key=lambda candidate: (candidate.parameters, candidate.error), default=None)
    if target.rule is RankRule.RANK:
        distance = {candidate: abs(candidate.share - target.amount) for candidate in candidates}
        nearest = [candidate for candidate in candidates if distance[candidate] <= min(distance.values()) + 1e-9]
        shares = [candidate.share for candidate in candidates]
        # The lowest share is as far from none as ranks are from each other.
        if shares and target.amount - max(shares) > min(shares) + 1e-9:
            return None
        return min(nearest, key=lambda candidate: (candidate.error, candidate.parameters), default=None)
    return min(candidates, key=lambda candidate: (candidate.error, candidate.parameters), default=None)


def budget(
    parameters: Sequence[int],
    options: Sequence[Sequence[SplitCandidate]],
    target: int,
    error_costs: Sequence[ErrorCost] | None = None,
) -> list[SplitCandidate | None]:
    """Return the splits that remove `target` parameters at about the least sum of errors.

    Of each layer only the splits on the lower hull of error over parameters matter; steps along the hulls are taken in
    the order of the error that they cost for each parameter, as in the allocation of bits (Shoham and Gersho,
    "Efficient bit allocation for an arbitrary set of quantizers", 1988). The last step is as short as it may be.

    Args:
        parameters: As for `choose`, as are `options`.
        target: Parameters to remove.
        error_costs: The cost of an error of each layer, rising with it; None: all alike.
    """
    steps: list[tuple[float, int, SplitCandidate]] = []
    for index, (whole, candidates) in enumerate(zip(parameters, options, strict=True)):
        error_cost = _same if error_costs is None else error_costs[index]
        before, cost = whole, 0.0
        for candidate in hull(whole, candidates, error_cost):
            steps.append(((error_cost(candidate.error) - cost) / (before - candidate.parameters), index, candidate))
            before, cost = candidate.parameters, error_cost(candidate.error)
    steps.sort(key=lambda step: step[:2])
    chosen: list[SplitCandidate | None] = [None] * len(parameters)
    left = target
    for _, index, candidate in steps:
        if left <= 0:
            break
        current = chosen[index]
        now = parameters[index] if current is None else current.parameters
        if now - candidate.parameters > left:
            enough = [smaller for smaller in options[index] if smaller.parameters <= now - left]
            candidate = min(enough, key=lambda smaller: (smaller.error, smaller.parameters))
        chosen[index] = candidate
        left -= now - candidate.parameters
    return chosen


def _same(error: float) -> float:
    return error


def hull(whole: int, candidates: Sequence[SplitCandidate], error_cost: ErrorCost = _same) -> list[SplitCandidate]:
    """Return the splits on the lower convex hull of cost over parameters, those with most parameters first."""
    found: list[SplitCandidate] = []
    points: list[tuple[int, float]] = [(whole, 0.0)]
    for candidate in sorted(candidates, key=lambda candidate: (-candidate.parameters, candidate.error)):
        if candidate.parameters >= points[-1][0]:
            continue
        point = candidate.parameters, error_cost(candidate.error)
        while len(points) > 1 and _slope(points[-2], points[-1]) >= _slope(points[-1], point):
            points.pop()
            found.pop()
        points.append(point)
        found.append(candidate)
    return found


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / max(one[0] - other[0], 1)


def describe(parameters: int, candidate: SplitCandidate) -> str:
    """Return a split in words: its form, its ranks, the parameters before and after."""
    ranks = "x".join(str(rank) for rank in candidate.ranks)
    return f"{candidate.form.value} of rank {ranks}: {parameters} -> {candidate.parameters} parameters"


def why_whole(candidates: Sequence[SplitCandidate], target: RankTarget, align: int) -> Reason:
    """Return why a layer stays whole that has `candidates`, of ranks that are multiples of `align`."""
    if not candidates:
        multiple = f" with a rank that is a multiple of {align}" if align > 1 else ""
        return Reason(LowrankCode.NOTHING_SAVED, (multiple,))
    if target.rule is RankRule.RANK:
        most = max(candidate.share for candidate in candidates)
        return Reason(LowrankCode.RANK_TOO_HIGH, (target.amount, most))
    if target.rule is RankRule.ENERGY:
        least = min(candidate.error for candidate in candidates)
        return Reason(LowrankCode.ENERGY_TOO_HIGH, (target.amount, 1 - least))
    return Reason(LowrankCode.BUDGET_MET)
