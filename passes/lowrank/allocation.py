"""Decides which split each layer gets: by its own error, by its own rank, or by one budget for all layers."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from .candidates import Candidate
from .factors import Form
from .layer import Layer


class Rule(enum.Enum):
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
class Wish:
    """What is asked for."""

    rule: Rule
    amount: float = 0.0


def choose(layers: Sequence[Layer], options: Sequence[Sequence[Candidate]], wish: Wish) -> list[Candidate | None]:
    """Return the split of each layer, None where it stays whole.

    Args:
        layers: The layers.
        options: For each of them what it may be split into.
        wish: What is asked for.
    """
    if wish.rule is Rule.PARAMS:
        total = sum(layer.parameters for layer in layers)
        return budget([layer.parameters for layer in layers], options, round(wish.amount * total))
    return [_alone(layer, own, wish) for layer, own in zip(layers, options, strict=True)]


def _alone(layer: Layer, own: Sequence[Candidate], wish: Wish) -> Candidate | None:
    if wish.rule is Rule.ENERGY:
        enough = [each for each in own if each.error <= 1 - wish.amount]
        return min(enough, key=lambda each: (each.parameters, each.error), default=None)
    if wish.rule is Rule.RANK:
        distance = {each: abs(share(layer, each) - wish.amount) for each in own}
        nearest = [each for each in own if distance[each] <= min(distance.values()) + 1e-9]
        return min(nearest, key=lambda each: (each.error, each.parameters), default=None)
    return min(own, key=lambda each: (each.error, each.parameters), default=None)


def share(layer: Layer, candidate: Candidate) -> float:
    """Return which share of the full rank a split has; of two ranks the mean."""
    full = {
        Form.MATRIX: [min(layer.inputs, layer.outputs)],
        Form.TUCKER: [layer.inputs, layer.outputs],
        Form.SEPARABLE: [layer.columns // max(layer.inputs, 1)],
    }.get(candidate.form)
    if full is None:  # spatial: columns of the window times channels
        full = [min(layer.inputs * layer.kernel[0], layer.outputs * layer.kernel[-1])]
    return sum(rank / whole for rank, whole in zip(candidate.ranks, full, strict=True)) / len(full)


def budget(parameters: Sequence[int], options: Sequence[Sequence[Candidate]], target: int) -> list[Candidate | None]:
    """Return the splits that remove `target` parameters at about the least sum of errors.

    Of each layer only the splits on the lower hull of error over parameters matter; steps along the hulls are taken in
    the order of the error that they cost for each parameter, as in the allocation of bits (Shoham and Gersho,
    "Efficient bit allocation for an arbitrary set of quantizers", 1988). The last step is as short as it may be.

    Args:
        parameters: For each layer how many it has.
        options: For each layer what it may be split into.
        target: Parameters to remove.
    """
    steps: list[tuple[float, int, Candidate]] = []
    for at, (whole, own) in enumerate(zip(parameters, options, strict=True)):
        before, error = whole, 0.0
        for each in hull(whole, own):
            steps.append(((each.error - error) / (before - each.parameters), at, each))
            before, error = each.parameters, each.error
    steps.sort(key=lambda step: step[:2])
    chosen: list[Candidate | None] = [None] * len(parameters)
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


def hull(whole: int, own: Sequence[Candidate]) -> list[Candidate]:
    """Return the splits on the lower convex hull of error over parameters, those with most parameters first."""
    found: list[Candidate] = []
    points: list[tuple[int, float]] = [(whole, 0.0)]
    for each in sorted(own, key=lambda each: (-each.parameters, each.error)):
        if each.parameters >= points[-1][0]:
            continue
        while len(points) > 1 and _slope(points[-2], points[-1]) >= _slope(points[-1], (each.parameters, each.error)):
            points.pop()
            found.pop()
        points.append((each.parameters, each.error))
        found.append(each)
    return found


def _slope(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (other[1] - one[1]) / max(one[0] - other[0], 1)
