"""Decides which split each layer gets: by its own error, by its own rank, or by one budget for all layers."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Protocol

from .candidates import SplitCandidate
from .factors import Factorization
from .layer import SMALLEST


class RankRule(enum.Enum):
    """How ranks are chosen."""

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
    """What is asked for."""

    rule: RankRule
    amount: float = 0.0

    @property
    def most_error(self) -> float | None:
        """What each layer may lose, as a share of the energy of its output; None where nothing is said of one layer."""
        return 1 - self.amount if self.rule is RankRule.ENERGY else None


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """What is asked for."""

    wish: RankTarget
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


ErrorCost = Callable[[float], float]
"""What an error of a layer costs the outputs."""


class Splittable(Protocol):
    """A layer or a table."""

    @property
    def parameters(self) -> int:
        """Elements of the weight."""

    @property
    def inputs(self) -> int:
        """Channels of the data, or rows."""

    @property
    def outputs(self) -> int:
        """What comes out of a place, or of a row."""


def choose(
    layers: Sequence[Splittable],
    options: Sequence[Sequence[SplitCandidate]],
    wish: RankTarget,
    prices: Sequence[ErrorCost] | None = None,
) -> list[SplitCandidate | None]:
    """Return the split of each layer, None where it stays whole.

    Args:
        layers: The layers.
        options: For each of them what it may be split into.
        wish: What is asked for.
        prices: What an error of each layer costs where they share a budget; None: all alike.
    """
    if wish.rule is RankRule.PARAMS:
        total = sum(layer.parameters for layer in layers)
        return budget([layer.parameters for layer in layers], options, round(wish.amount * total), prices)
    return [_alone(own, wish) for own in options]


def _alone(own: Sequence[SplitCandidate], wish: RankTarget) -> SplitCandidate | None:
    if wish.rule is RankRule.ENERGY:
        enough = [each for each in own if each.error <= (wish.most_error or 0.0)]
        return min(enough, key=lambda each: (each.parameters, each.error), default=None)
    if wish.rule is RankRule.RANK:
        distance = {each: abs(each.share - wish.amount) for each in own}
        nearest = [each for each in own if distance[each] <= min(distance.values()) + 1e-9]
        # The lowest share is as far from none as ranks are from each other.
        if own and wish.amount - max(each.share for each in own) > min(each.share for each in own) + 1e-9:
            return None
        return min(nearest, key=lambda each: (each.error, each.parameters), default=None)
    return min(own, key=lambda each: (each.error, each.parameters), default=None)


def budget(
    parameters: Sequence[int],
    options: Sequence[Sequence[SplitCandidate]],
    target: int,
    prices: Sequence[ErrorCost] | None = None,
) -> list[SplitCandidate | None]:
    """Return the splits that remove `target` parameters at about the least sum of errors.

    Of each layer only the splits on the lower hull of error over parameters matter; steps along the hulls are taken in
    the order of the error that they cost for each parameter, as in the allocation of bits (Shoham and Gersho,
    "Efficient bit allocation for an arbitrary set of quantizers", 1988). The last step is as short as it may be.

    Args:
        parameters: For each layer how many it has.
        options: For each layer what it may be split into.
        target: Parameters to remove.
        prices: For each layer what an error costs, which grows with it; None: all alike.
    """
    steps: list[tuple[float, int, SplitCandidate]] = []
    for at, (whole, own) in enumerate(zip(parameters, options, strict=True)):
        price = _same if prices is None else prices[at]
        before, cost = whole, 0.0
        for each in hull(whole, own, price):
            steps.append(((price(each.error) - cost) / (before - each.parameters), at, each))
            before, cost = each.parameters, price(each.error)
    steps.sort(key=lambda step: step[:2])
    chosen: list[SplitCandidate | None] = [None] * len(parameters)
    left = target
    for _, at, each in steps:
        if left <= 0:
            break
        held = chosen[at]
        now = parameters[at] if held is None else held.parameters
        if now - each.parameters > left:
            enough = [other for other in options[at] if other.parameters <= now - left]
            each = min(enough, key=lambda other: (other.error, other.parameters))
        chosen[at] = each
        left -= now - each.parameters
    return chosen


def _same(error: float) -> float:
    return error


def hull(whole: int, own: Sequence[SplitCandidate], price: ErrorCost = _same) -> list[SplitCandidate]:
    """Return the splits on the lower convex hull of cost over parameters, those with most parameters first."""
    found: list[SplitCandidate] = []
    points: list[tuple[int, float]] = [(whole, 0.0)]
    for each in sorted(own, key=lambda each: (-each.parameters, each.error)):
        if each.parameters >= points[-1][0]:
            continue
        point = each.parameters, price(each.error)
        while len(points) > 1 and _slope(points[-2], points[-1]) >= _slope(points[-1], point):
            points.pop()
            found.pop()
        points.append(point)
        found.append(each)
    return found


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / max(one[0] - other[0], 1)


def describe(parameters: int, candidate: SplitCandidate) -> str:
    """Return a split in words: its form, its ranks, the parameters before and after."""
    ranks = "x".join(str(rank) for rank in candidate.ranks)
    return f"{candidate.form.value} of rank {ranks}: {parameters} -> {candidate.parameters} parameters"


def why_whole(own: Sequence[SplitCandidate], wish: RankTarget, align: int = 1) -> str:
    """Return why a layer stays whole that may be split into `own`, of ranks that are multiples of `align`."""
    if not own:
        return "no split saves parameters" + (f" with a rank that is a multiple of {align}" if align > 1 else "")
    if wish.rule is RankRule.RANK:
        most = max(each.share for each in own)
        return f"with {wish.amount:.1%} of its rank nothing is saved (with {most:.1%} there is)"
    if wish.rule is RankRule.ENERGY:
        least = min(each.error for each in own)
        return f"no split that saves parameters retains {wish.amount:.1%} of its output (at most {1 - least:.1%})"
    return "the budget is met without it"
