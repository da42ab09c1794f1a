"""Ties the scales of sums and joins to those of what they read, where values are rounded once in place of twice.

Between tensors with the same step a sum of levels is a level: it is not rounded again, as a Concat rounds nothing whose
parts lie on its own levels. But all that is tied has one step, too wide for some and too fine for others. So ties are
made one by one, each time the one that saves most, while the expected error falls: a twelfth of the squared step for
each element that is rounded and not zero, and what is cut off.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has

from .integers import IntegerType
from .intervals import Histogram
from .plan import QuantPlan
from .scales import Scale
from .site import QuantSite

MOST = 96
"""Tensors that are tied together at most."""
SMALLEST = 1e-30
"""Energy that is taken for none."""

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class SeenTensor:
    """What is known of a tensor."""

    histogram: Histogram
    limits: Interval = (-math.inf, math.inf)
    """What a clamp that is absorbed lets through: levels beyond would undo it."""
    fixed: bool = False
    """Whether its levels mean something, and must stay."""


@dataclasses.dataclass(frozen=True)
class Tie:
    """Tensors, by name, that are rounded less often if they have one step."""

    operands: tuple[str, ...]
    result: str
    joins: bool
    """Whether they must have one zero point as well: levels are copied, not added."""
    saved: float
    """The share of the elements of `result` that are no longer rounded, times what their error counts."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that it ties."""
        return *self.operands, self.result


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What is the same for all tensors."""

    integers: IntegerType
    symmetric: bool
    cutting: float
    cut: Callable[[str, Interval], float]
    """What it costs to cut a tensor off at the ends of an interval, as its error counts."""


@dataclasses.dataclass(frozen=True)
class _Levels:
    """Tensors with one zero point."""

    names: frozenset[str]
    covered: Interval
    limits: Interval

    def with_(self, other: _Levels) -> _Levels:
        return _Levels(
            self.names | other.names,
            (min(self.covered[0], other.covered[0]), max(self.covered[1], other.covered[1])),
            (max(self.limits[0], other.limits[0]), min(self.limits[1], other.limits[1])),
        )

    def scale(self, terms: _Terms, step: np.float32 | None = None) -> Scale:
        """Return the scale of some step, which cuts off both ends alike if it is too fine; without one, its own."""
        own = Scale.covering(*self.covered, terms.integers, terms.symmetric)
        if step is None or step == own.scale:
            return own
        low = self.covered[0] * min(1.0, float(step / own.scale))
        return Scale.of_step(step, low, terms.integers, terms.symmetric)

    def allows(self, scale: Scale) -> bool:
        """Return whether no clamp is undone by a scale."""
        (low, high), half = scale.interval, float(scale.scale) / 2
        return low >= self.limits[0] - half and high <= self.limits[1] + half


class _Tied:
    """Tensors that have one step.

    Args:
        levels: What has one zero point each.
        rounded: The share of elements that are rounded, times what their error counts, of all together.
        terms: What they have in common.
        steps: Those that are tried beside the one that covers all.
    """

    def __init__(
        self, levels: tuple[_Levels, ...], rounded: float, terms: _Terms, steps: Collection[np.float32] = ()
    ) -> None:
        self._levels, self._rounded, self._terms = levels, rounded, terms
        whole = max(each.scale(terms).scale for each in levels)
        errors = {step: self._error(step) for step in {whole, *steps} if step >= whole or not math.isinf(terms.cutting)}
        self.step = min(sorted(errors), key=errors.__getitem__)
        self.error = errors[self.step]

    def _error(self, step: np.float32) -> float:
        """Return what rounding and cutting off cost by some step."""
        error = self._rounded * float(step) ** 2 / 12
        for each in self._levels:
            scale = each.scale(self._terms, step)
            if len(self.names) > 1 and not each.allows(scale):
                return math.inf
            if not math.isinf(self._terms.cutting):
                error += self._terms.cutting * sum(self._terms.cut(name, scale.interval) for name in sorted(each.names))
        return error

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """All tensors."""
        return frozenset().union(*(each.names for each in self._levels))

    @property
    def scales(self) -> dict[str, Scale]:
        """The scale of each."""
        return {name: each.scale(self._terms, self.step) for each in self._levels for name in each.names}

    def with_(self, others: Iterable[_Tied], tie: Tie) -> _Tied:
        """Return all in one, with a tie that is added."""
        every = (self, *others)
        levels = [each for tied in every for each in tied._levels]
        if tie.joins:
            same = [each for each in levels if not each.names.isdisjoint(tie.names)]
            levels = [each for each in levels if each not in same]
            levels.append(functools.reduce(_Levels.with_, same))
        rounded = sum(tied._rounded for tied in every) - tie.saved
        return _Tied(tuple(levels), rounded, self._terms, [tied.step for tied in every])


def with_ties(
    plan: QuantPlan,
    scales: Mapping[str, Scale],
    seen: Mapping[str, SeenTensor],
    cutting: float = math.inf,
    symmetric: bool = False,
) -> dict[str, Scale]:
    """Return a choice of scales in which those of sums, joins and their operands are tied where that costs less.

    Args:
        plan: What is quantized.
        scales: Of the sources of its groups, by name.
        seen: What is known of them; others are not tied.
        cutting: How many times what is cut off counts beside what is rounded; infinite: nothing more is cut off.
        symmetric: Zero points are zero.
    """
    counts = _counts(plan, seen)
    ties = list(_ties(plan, seen, counts))

    @functools.cache
    def cut(name: str, interval: Interval) -> float:
        return counts.cut[name] * seen[name].histogram.cut(*interval)

    sets: dict[str, _Tied] = {}
    for name in sorted({name for tie in ties for name in tie.names}):
        (low, high), (least, most) = scales[name].interval, seen[name].limits
        levels = _Levels(frozenset({name}), (low, high), (min(least, low), max(most, high)))
        terms = _Terms(scales[name].integers, symmetric, cutting, cut)
        sets[name] = _Tied((levels,), counts.rounded[name] * seen[name].histogram.rounded, terms)
    while made := _make(ties, sets):  # what does not pay yet may do so where others have wider steps by now
        ties = [tie for tie in ties if tie not in made]
    found = dict(scales)
    for tied in dict.fromkeys(sets.values()):
        if len(tied.names) > 1:
            found |= tied.scales
    return found


def _make(ties: Sequence[Tie], sets: dict[str, _Tied]) -> list[Tie]:
    """Make the ties that save something, first the one that saves most, and return them; each is in one of `sets`, by
    the names of the tensors, which are changed."""

    def parts(tie: Tie) -> list[_Tied]:
        return list(dict.fromkeys(sets[name] for name in tie.names))

    def told(index: int) -> None:
        """Queue a tie with what it saves as things are."""
        before = parts(ties[index])
        if sum(len(part.names) for part in before) <= MOST:
            merged = before[0].with_(before[1:], ties[index])
            saved = sum(part.error for part in before) - merged.error
            if saved > 0:
                heapq.heappush(queue, (-saved, index, before, merged))

    queue: list[tuple[float, int, list[_Tied], _Tied]] = []
    made: list[Tie] = []
    for index in range(len(ties)):
        told(index)
    while queue:
        _, index, before, merged = heapq.heappop(queue)
        if before != parts(ties[index]):  # others were made since
            told(index)
            continue
        sets.update(dict.fromkeys(merged.names, merged))
        made.append(ties[index])
    return made


def _ties(plan: QuantPlan, seen: Mapping[str, SeenTensor], counts: _Counts) -> Iterable[Tie]:
    sources, free = plan.sources, {name for name, each in seen.items() if not each.fixed}
    for site in plan.sites:
        names = [sources[value] for value in site.operands()]
        result = sources.get(site.results[0], "")
        if result not in free or site.constants or len(names) < 2:
            continue
        if has(site.node, Trait.ADDS) and free >= set(names):
            yield Tie(tuple(names), result, False, seen[result].histogram.rounded * counts.rounded[result])
        elif site.row.joins:
            for name, share in zip(names, _shares(site), strict=False):
                if name in free:
                    yield Tie((name,), result, True, seen[name].histogram.rounded * share * counts.rounded[result])


def _shares(site: QuantSite) -> list[float]:
    """Return which share of the result of a join each operand is, taken to be alike where it lies along no axis; none
    where sizes are not known."""
    axis, operands = attribute(site.node, "axis"), site.operands()
    if not isinstance(axis, int):
        return [1 / len(operands)] * len(operands)
    sizes = [None if value.shape is None else value.shape[axis] for value in operands]
    known = [float(size) for size in sizes if isinstance(size, int)]
    return [size / sum(known) for size in known] if len(known) == len(sizes) and any(known) else []


@dataclasses.dataclass(frozen=True)
class _Counts:
    """What the squared error of an element of each tensor counts, by name: about which share of the energy of what the
    model makes it comes to. A sum passes on errors as they are, and other ops as they pass on what they read."""

    rounded: Mapping[str, float]
    """On the average over all elements: behind a clamped sum it counts where the clamp lets it through."""
    cut: Mapping[str, float]
    """Of the largest: clamps let them through."""


def _counts(plan: QuantPlan, seen: Mapping[str, SeenTensor]) -> _Counts:
    """Return what errors of tensors count, by the names of the sources of groups."""
    sources, nodes = plan.sources, {site.node for site in plan.sites}
    energies = {name: each.histogram.energy for name, each in seen.items()}
    shares_of_end = dict.fromkeys(sources.values(), 0.0)
    """What an error counts that is as large as the tensor itself."""
    for value, name in sources.items():
        shares_of_end[name] += sum(use.node not in nodes for use in value.uses()) + value.is_graph_output()
    cut = dict(shares_of_end)
    for site in reversed(plan.sites):
        result = sources.get(site.results[0], "")
        adds, shares = has(site.node, Trait.ADDS), _shares(site) if site.row.joins else []
        for index, value in enumerate(site.operands()):
            name = sources[value]
            if name == result:  # what is moved is read by those that read where it is moved to
                continue
            passed, let_through = shares_of_end.get(result, 1.0), 1.0
            if adds or shares:
                passed *= energies.get(name, 1.0) / max(energies.get(result, 1.0), SMALLEST)
                passed *= 1.0 if adds else shares[index]
            if adds and site.clamp is not None and result in seen and not _is_told(name, seen):
                let_through = seen[result].histogram.rounded
            shares_of_end[name] += passed * let_through
            cut[name] += passed

    def of_elements(counts: Mapping[str, float]) -> dict[str, float]:
        return {name: count / max(energies.get(name, 1.0), SMALLEST) for name, count in counts.items()}

    return _Counts(of_elements(shares_of_end), of_elements(cut))


def _is_told(name: str, seen: Mapping[str, SeenTensor]) -> bool:
    """Whether the histogram of a tensor tells what is left of it where its error counts."""
    return name in seen and seen[name].histogram.curves is not None
