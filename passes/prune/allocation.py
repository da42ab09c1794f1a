"""Decides how many channels each group loses: one ranking of all groups, or the same share of each, until the share of
the cost that was asked for is gone."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxslim.analysis.coupling import ChannelGroup, Coupling
from onnxslim.analysis.remaining_cost import Lengths, RemainingCost
from onnxslim.arrays import Floats, Mask

OVERSHOOT = 0.04
"""A block that would take the share of the cost this far beyond what was asked for stays."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is to go."""

    gone: Mask
    """For each label whether it goes."""
    taken: tuple[int, ...]
    """For each group how many of its channels go."""
    too_much: bool = False
    """Whether blocks of channels are left that would take more than was asked for."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What every group keeps."""

    align: int
    """Lengths of axes are kept at multiples of this, and never fall below it; see `step` for short ones."""
    most: float
    """The share of a group that may go at most."""
    minimum: int = 1
    """Channels that stay at least."""
    lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """How long the axes of a group were before all cuts, by its name, where this cut is not the first."""

    def length(self, group: ChannelGroup) -> int:
        """Return how long the axes of a group were before all cuts."""
        return max(len(group.roots) * group.width, self.lengths.get(group.name, 0))

    def beginning_with(self, groups: Iterable[ChannelGroup]) -> Limits:
        """Return the same limits for several cuts, of which the first is one of these groups."""
        lengths: dict[str, int] = {}
        for group in groups:
            lengths[group.name] = max(self.length(group), lengths.get(group.name, 0))
        return dataclasses.replace(self, lengths=lengths)

    def step(self, length: int) -> int:
        """Return what lengths are kept at multiples of, of axes that are this long.

        No more than the largest power of two that is at most a quarter of the length: groups of 8 channels could not be
        cut at all in steps of 8. Of fewer than four none is spared.
        """
        return min(self.align, 1 << (length // 4).bit_length() - 1) if length >= 4 else self.align


def blocks(group: ChannelGroup, limits: Limits) -> list[int]:
    """Return how many channels go at once, block by block: the first brings the length to a multiple of the step."""
    count = len(group.roots)
    whole = limits.length(group)
    align = limits.step(whole)
    step = align // math.gcd(align, group.width)
    if count * group.width < 2 * align:
        return []
    least = max(step, math.ceil(whole / group.width * (1 - limits.most)), math.ceil(limits.minimum / group.width))
    result: list[int] = []
    left = count
    while left - (take := left % step or step) >= least:
        result.append(take)
        left -= take
    return result


def allocate(
    coupling: Coupling,
    groups: Sequence[ChannelGroup],
    importance: Sequence[Floats],
    target: float,
    limits: Limits,
    cost: RemainingCost,
) -> Choice:
    """Choose channels until the cost of the model has fallen by `target`.

    All groups are ranked together: a block of the least important channels of a group costs their importance for each
    MAC (byte, millisecond) that it saves. What it saves depends on what has gone before, so the least costly block is
    found by lazy evaluation. `importance` is that of the channels of each group, in the order of `ChannelGroup.roots`,
    comparable between groups.
    """
    lengths = Lengths(coupling)
    gone: Mask = np.zeros(coupling.labels.count, np.bool_)
    start = left = cost(gone)
    orders = [np.argsort(scores, kind="stable") for scores in importance]
    waiting = [blocks(group, limits) for group in groups]
    taken = [0] * len(groups)
    too_much = False

    def attempt(index: int) -> tuple[float, Mask, float]:
        chosen = orders[index][taken[index] : taken[index] + waiting[index][0]]
        without = gone | coupling.labels.removed(groups[index].roots[chosen])
        rest = cost(without)
        return float(importance[index][chosen].sum()) / max(left - rest, 1e-12 * start), without, rest

    queue = [(attempt(index)[0], index) for index in range(len(groups)) if waiting[index]]
    heapq.heapify(queue)
    while queue and start - left < target:
        _, index = heapq.heappop(queue)
        price, without, rest = attempt(index)
        if queue and price > queue[0][0]:
            heapq.heappush(queue, (price, index))
            continue
        if rest >= left or lengths.empties(without):
            continue  # nothing to gain, or an axis would run empty: this group is done
        if start - rest > target + OVERSHOOT * start:
            too_much = True
            continue
        gone, left = without, rest
        taken[index] += waiting[index].pop(0)
        if waiting[index]:
            heapq.heappush(queue, (attempt(index)[0], index))
    return Choice(gone, tuple(taken), too_much)


def allocate_evenly(
    coupling: Coupling,
    groups: Sequence[ChannelGroup],
    importance: Sequence[Floats],
    target: float,
    limits: Limits,
    cost: RemainingCost,
) -> Choice:
    """Choose the least important channels of each group, of each the same share, such that the cost falls by `target`.

    Of the shares that the blocks of the groups allow it is the one that comes nearest, found by bisection. See
    `allocate` for the arguments.
    """
    lengths = Lengths(coupling)
    start = cost(np.zeros(coupling.labels.count, np.bool_))
    orders = [np.argsort(scores, kind="stable") for scores in importance]
    steps = [np.cumsum([0, *blocks(group, limits)]) for group in groups]
    shares = sorted(
        {count / len(group.roots) for group, taken in zip(groups, steps, strict=True) for count in taken[1:]}
    )

    def at_share(share: float) -> tuple[float, Choice]:
        taken = [
            int(counts[np.searchsorted(counts, share * len(group.roots) + 1e-9, "right") - 1])
            for group, counts in zip(groups, steps, strict=True)
        ]
        roots = [group.roots[order[:count]] for group, order, count in zip(groups, orders, taken, strict=True)]
        gone = coupling.labels.removed(np.concatenate([np.zeros(0, np.int64), *roots]))
        saved = -np.inf if lengths.empties(gone) else start - cost(gone)
        return float(saved), Choice(gone, tuple(taken), bool(shares) and share < shares[-1])

    low, high = 0, len(shares)
    while low < high:
        middle = (low + high) // 2
        saved, _ = at_share(shares[middle])
        low, high = (middle + 1, high) if -np.inf < saved < target else (low, middle)
    tried = [at_share(share) for share in (0.0, *shares[max(low - 1, 0) : low + 1])]
    return min(tried, key=lambda attempt: abs(attempt[0] - target))[1]
