"""Decides how many channels each group loses: one ranking of all groups, or the same share of each, until the share of
the cost that was asked for is gone."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.coupling import ChannelGroup, Coupling
from onnxslim.analysis.labels import Mask
from onnxslim.analysis.remaining_cost import Lengths, MacsLeft, RemainingCost

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

    def step(self, length: int) -> int:
        """Return what lengths are kept at multiples of, of axes that are this long.

        No more than the largest power of two that is at most a quarter of the length: groups of 8 channels could not be
        cut at all in steps of 8. Of fewer than four none is spared.
        """
        return min(self.align, 1 << (length // 4).bit_length() - 1) if length >= 4 else self.align


def blocks(group: ChannelGroup, limits: Limits) -> list[int]:
    """Return how many channels go at once, block by block: the first brings the length to a multiple of the step."""
    count = len(group.roots)
    align = limits.step(count * group.width)
    step = align // math.gcd(align, group.width)
    if count * group.width < 2 * align:
        return []
    least = max(step, math.ceil(count * (1 - limits.most)), math.ceil(limits.minimum / group.width))
    result: list[int] = []
    left = count
    while left - (take := left % step or step) >= least:
        result.append(take)
        left -= take
    return result


def allocate(
    coupling: Coupling,
    groups: Sequence[ChannelGroup],
    importance: Sequence[npt.NDArray[np.float64]],
    target: float,
    limits: Limits,
    sized: ir.Model | None = None,
    cost: RemainingCost | None = None,
) -> Choice:
    """Choose channels until the cost of the model has fallen by `target`.

    All groups are ranked together: a block of the least important channels of a group costs their importance for each
    MAC (byte, millisecond) that it saves. What it saves depends on what has gone before, so the least costly block is
    found by lazy evaluation.

    Args:
        coupling: The coupled axes.
        groups: The groups that may lose channels.
        importance: For each group the importance of its channels, in the order of `ChannelGroup.roots`, comparable
            between groups.
        target: What to save, in the unit of the cost.
        limits: What every group keeps.
        sized: A copy of the model in which symbolic dimensions have sizes, to count MACs with; None: they count as 1.
        cost: What the model costs; None: MACs.
    """
    left_of: RemainingCost = cost or MacsLeft(coupling, sized)
    lengths = Lengths(coupling)
    gone: Mask = np.zeros(coupling.labels.count, np.bool_)
    start = left = left_of(gone)
    orders = [np.argsort(scores, kind="stable") for scores in importance]
    waiting = [blocks(group, limits) for group in groups]
    taken = [0] * len(groups)
    too_much = False

    def attempt(at: int) -> tuple[float, Mask, float]:
        chosen = orders[at][taken[at] : taken[at] + waiting[at][0]]
        without = gone | coupling.labels.removed(groups[at].roots[chosen])
        rest = left_of(without)
        return float(importance[at][chosen].sum()) / max(left - rest, 1e-12 * start), without, rest

    queue = [(attempt(at)[0], at) for at in range(len(groups)) if waiting[at]]
    heapq.heapify(queue)
    while queue and start - left < target:
        _, at = heapq.heappop(queue)
        price, without, rest = attempt(at)
        if queue and price > queue[0][0]:
            heapq.heappush(queue, (price, at))
            continue
        if rest >= left or lengths.empties(without):
            continue  # nothing to gain, or an axis would run empty: this group is done
        if start - rest > target + OVERSHOOT * start:
            too_much = True
            continue
        gone, left = without, rest
        taken[at] += waiting[at].pop(0)
        if waiting[at]:
            heapq.heappush(queue, (attempt(at)[0], at))
    return Choice(gone, tuple(taken), too_much)


def allocate_evenly(
    coupling: Coupling,
    groups: Sequence[ChannelGroup],
    importance: Sequence[npt.NDArray[np.float64]],
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
    shares = sorted({each / len(group.roots) for group, taken in zip(groups, steps, strict=True) for each in taken[1:]})

    def at_share(share: float) -> tuple[float, Choice]:
        taken = [
            int(each[np.searchsorted(each, share * len(group.roots) + 1e-9, "right") - 1])
            for group, each in zip(groups, steps, strict=True)
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
    return min(tried, key=lambda each: abs(each[0] - target))[1]
