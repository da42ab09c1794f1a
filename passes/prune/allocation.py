"""Decides how many channels each group loses: one ranking of all groups, until the share of MACs that was asked for
is gone."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.graph.axes import fit
from onnxslim.graph.coupling import Coupling, Group
from onnxslim.graph.labels import Mask
from onnxslim.graph.relations import Indices

OVERSHOOT = 0.04
"""A block that would take the share of MACs this far beyond what was asked for stays."""


class MacsLeft:
    """Counts the MACs of the main graph for any set of labels that go: sums of products of axis lengths.

    Args:
        coupling: The coupled axes of the model.
        sized: A copy of the model in which symbolic dimensions have sizes; without it they count as 1.
    """

    def __init__(self, coupling: Coupling, sized: ir.Model | None = None) -> None:
        at_size = {} if sized is None else {_key(node): fit(node) for node in sized.graph}
        relations, labels = coupling.relations, coupling.labels
        order = {axis: at for at, axis in enumerate(labels.start)}
        self._begin = np.array(list(labels.start.values()), np.int64)
        self._sizes = np.array([relations.sizes[axis] for axis in labels.start], np.int64)
        # Columns of factors, filled up with an axis that counts as 1.
        one = len(order)
        terms: list[list[int]] = []
        scales: list[int] = []
        for fitted, bound in coupling.fitted.values():
            whole = at_size.get(_key(fitted.node)) or fitted
            if not bound:  # a shape is missing: the node is frozen, and costs what it costs
                terms.append([])
                scales.append(whole.macs())
                continue
            for term in fitted.signature.macs:
                scale = math.prod(int(letter) for letter in term if letter.isdigit())
                axes: list[int] = []
                # A letter may stand in a term twice, and for the several axes of an ellipsis.
                for key, axis in [item for letter in term for item in bound.items() if item[0][0] == letter]:
                    if relations.find(axis) in order:
                        axes.append(order[relations.find(axis)] if not key[0].isdigit() else one)
                    else:
                        scale *= whole.sizes.get(key, 1)  # too long to hold channels, or symbolic
                terms.append(axes)
                scales.append(scale)
        widest = max((len(term) for term in terms), default=0)
        self._terms = np.array([[*term, *[one] * (widest - len(term))] for term in terms], np.int64).reshape(
            len(terms), widest
        )
        self._scales = np.array(scales, np.int64)

    def lengths(self, gone: Mask) -> Indices:
        """Return how long each axis is when the labels `gone` have gone."""
        before = np.concatenate([[0], np.cumsum(gone)])
        lengths: Indices = self._sizes - (before[self._begin + self._sizes] - before[self._begin])
        return lengths

    def __call__(self, gone: Mask) -> int:
        """Return the MACs that are left when the labels `gone` have gone."""
        lengths = np.append(self.lengths(gone), 1)
        return int((lengths[self._terms].prod(axis=1) * self._scales).sum())

    def empties(self, gone: Mask) -> bool:
        """Whether an axis would run empty."""
        return bool((self.lengths(gone)[self._sizes > 0] == 0).any())


def _key(node: ir.Node) -> str:
    return node.outputs[0].name or ""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is to go."""

    gone: Mask
    """For each label whether it goes."""
    taken: tuple[int, ...]
    """For each group how many of its channels go."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What every group keeps."""

    align: int
    """Lengths of axes are kept at multiples of this, and never fall below it."""
    most: float
    """The share of a group that may go at most."""


def blocks(group: Group, limits: Limits) -> list[int]:
    """Return how many channels go at once, block by block: the first brings the length to a multiple of `align`."""
    count = len(group.roots)
    step = limits.align // math.gcd(limits.align, group.width)
    if count * group.width < 2 * limits.align:
        return []
    least = max(step, math.ceil(count * (1 - limits.most)))
    result: list[int] = []
    left = count
    while left - (take := left % step or step) >= least:
        result.append(take)
        left -= take
    return result


def allocate(
    coupling: Coupling,
    groups: Sequence[Group],
    importance: Sequence[npt.NDArray[np.float64]],
    target: int,
    limits: Limits,
    sized: ir.Model | None = None,
) -> Choice:
    """Choose channels until the MACs of the main graph have fallen by `target`.

    All groups are ranked together: a block of the least important channels of a group costs their importance per MAC
    that it saves. What it saves depends on what has gone before, so the least costly block is found by lazy
    evaluation.

    Args:
        coupling: The coupled axes.
        groups: The groups that may lose channels.
        importance: For each group the importance of its channels, in the order of `Group.roots`, comparable between
            groups.
        target: MACs to save.
        limits: What every group keeps.
        sized: A copy of the model in which symbolic dimensions have sizes, to count MACs with; None: they count as 1.
    """
    macs = MacsLeft(coupling, sized)
    gone: Mask = np.zeros(coupling.labels.count, np.bool_)
    start = left = macs(gone)
    orders = [np.argsort(scores, kind="stable") for scores in importance]
    waiting = [blocks(group, limits) for group in groups]
    taken = [0] * len(groups)

    def attempt(at: int) -> tuple[float, Mask, int]:
        chosen = orders[at][taken[at] : taken[at] + waiting[at][0]]
        without = gone | coupling.labels.removed(groups[at].roots[chosen])
        rest = macs(without)
        return float(importance[at][chosen].sum()) / max(left - rest, 1e-9), without, rest

    queue = [(attempt(at)[0], at) for at in range(len(groups)) if waiting[at]]
    heapq.heapify(queue)
    while queue and start - left < target:
        _, at = heapq.heappop(queue)
        cost, without, rest = attempt(at)
        if queue and cost > queue[0][0]:
            heapq.heappush(queue, (cost, at))
            continue
        if rest == left or start - rest > target + OVERSHOOT * start or macs.empties(without):
            continue  # nothing to gain, too much at once, or an axis would run empty: this group is done
        gone, left = without, rest
        taken[at] += waiting[at].pop(0)
        if waiting[at]:
            heapq.heappush(queue, (attempt(at)[0], at))
    return Choice(gone, tuple(taken))
