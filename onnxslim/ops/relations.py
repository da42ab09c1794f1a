"""Collects what the nodes of a graph say about axes: which are one, which are products, which share single indices."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.ops.binding import dimensions

Indices = npt.NDArray[np.int64]

LONGEST = 1 << 18
"""A longer axis holds no channels; it is treated as one whose size is not known."""


@dataclasses.dataclass(frozen=True)
class Freeze:
    """Why an axis, or some of its indices, must stay as they are."""

    reason: str
    """Names the op and the node."""
    inherent: bool = False
    """The axis is none that could be cut in any model: a window, a number of gates, a place in a shape."""


class Relations:
    """What is known about axes. An axis is a number; `axis` gives it for a value, `fresh` for a factor of an axis.

    Axes that are one are merged at once (`equate`). Everything else is written down, and solved by `labels.solve`.
    """

    def __init__(self) -> None:
        self.sizes: list[int | None] = []
        """The length of each axis; None where it is symbolic."""
        self.products: list[tuple[int, tuple[int, ...]]] = []
        """(axis, its factors, the slowest first)."""
        self.pairs: list[tuple[int, Indices, int, Indices]] = []
        """(axis, indices, axis, indices): these indices are pairwise the same channel."""
        self.frozen: list[tuple[int, Indices | None, Freeze]] = []
        """(axis, indices, why); all indices where they are None."""
        self.mixed: list[int] = []
        """Axes that some op mixes along (norms, means): cutting them is sound, but not exact."""
        self._parent: list[int] = []
        self._of_value: dict[ir.Value, tuple[int, ...]] = {}

    def fresh(self, size: int | None) -> int:
        """Return a new axis that has nothing to do with any other yet."""
        self._parent.append(len(self._parent))
        size = None if size is not None and size > LONGEST else size
        self.sizes.append(size)
        return len(self._parent) - 1

    def find(self, axis: int) -> int:
        """Return the axis that stands for all those that are one with `axis`."""
        while self._parent[axis] != axis:
            self._parent[axis] = self._parent[self._parent[axis]]
            axis = self._parent[axis]
        return axis

    def axes(self, value: ir.Value) -> tuple[int, ...] | None:
        """Return the axes of `value`, None where its rank is not known."""
        if value not in self._of_value:
            shape = dimensions(value)
            if shape is None:
                return None
            self._of_value[value] = tuple(self.fresh(size) for size in shape)
        return self._of_value[value]

    def values(self) -> dict[ir.Value, tuple[int, ...]]:
        """Return all values that have been asked for, with their axes."""
        return self._of_value

    def freeze(self, axis: int, why: Freeze, indices: Indices | None = None) -> None:
        """Say that `axis`, or some indices of it, must stay."""
        if self.sizes[self.find(axis)] not in (None, 1):
            self.frozen.append((axis, indices, why))

    def mix(self, axis: int) -> None:
        """Say that an op mixes along `axis`."""
        self.mixed.append(axis)

    def freeze_value(self, value: ir.Value | None, why: Freeze) -> None:
        """Say that every axis of `value` must stay."""
        if value is not None:
            for axis in self.axes(value) or ():
                self.freeze(axis, why)

    def equate(self, left: int, right: int, where: str) -> None:
        """Say that two axes are one. Where their sizes do not agree, too little is known, and both are frozen."""
        left, right = self.find(left), self.find(right)
        if left == right:
            return
        if self.sizes[left] == self.sizes[right]:
            self._parent[right] = left
            return
        why = Freeze(f"{where}: a size is not known before the model runs")
        self.freeze(left, why)
        self.freeze(right, why)

    def multiply(self, whole: int, factors: Sequence[int], where: str) -> None:
        """Say that `whole` is the product of `factors`, the slowest first."""
        long = [factor for factor in factors if self.sizes[self.find(factor)] != 1]
        if len(long) == 1:
            self.equate(whole, long[0], where)
        elif long:
            sizes = [self.sizes[self.find(factor)] for factor in long]
            whole_size = self.sizes[self.find(whole)]
            if None in sizes or whole_size != np.prod([size or 0 for size in sizes], dtype=np.int64):
                why = Freeze(f"{where}: a size is not known before the model runs")
                for axis in (whole, *long):
                    self.freeze(axis, why)
            else:
                self.products.append((whole, tuple(long)))

    def pair(self, left: int, left_indices: Indices, right: int, right_indices: Indices) -> None:
        """Say that `left[left_indices]` and `right[right_indices]` are pairwise the same channel."""
        self.pairs.append((left, left_indices, right, right_indices))

    def align(self, left: Sequence[int], right: Sequence[int], where: str) -> None:
        """Say that two runs of axes hold the same elements in the same order, as a reshape does.

        The finest factors that both runs are products of are found: (6, 4) and (3, 8) are (3*2, 4) and (3, 2*4). Runs
        without such factors, (2, 3) and (3, 2), are frozen.
        """
        left = [axis for axis in left if self.sizes[self.find(axis)] != 1]
        right = [axis for axis in right if self.sizes[self.find(axis)] != 1]
        left_cuts, right_cuts = self._cuts(left), self._cuts(right)
        cuts = sorted({*left_cuts, *right_cuts})
        if left_cuts[-1:] != right_cuts[-1:] or not self._nests(left, right):
            why = Freeze(f"{where}: axes of {self._shape(left)} do not factor into {self._shape(right)}")
            for axis in (*left, *right):
                self.freeze(axis, why)
            return
        finest = {cut: self.fresh(cut // below) for below, cut in zip([1, *cuts], cuts, strict=False)}
        for axes, ends in ((left, left_cuts), (right, right_cuts)):
            for axis, below, end in zip(reversed(axes), [1, *ends], ends, strict=False):
                self.multiply(axis, [finest[cut] for cut in reversed(cuts) if below < cut <= end], where)

    def _cuts(self, axes: Sequence[int]) -> list[int]:
        """Return the products of the sizes from the right: (2, 3, 4) is cut at 4, 12 and 24."""
        return list(itertools.accumulate((self.sizes[self.find(axis)] or 0 for axis in reversed(axes)), operator.mul))

    def _shape(self, axes: Sequence[int]) -> str:
        return "x".join(str(self.sizes[self.find(axis)]) for axis in axes) or "1"

    def refine(self) -> None:
        """Bring all products of one axis to the same factors, until nothing changes.

        What does not nest, (2, 3) and (3, 2), stays as two products; `labels.solve` freezes as much as it must.
        """
        while True:
            known: dict[int, list[tuple[int, ...]]] = {}
            for whole, factors in self.products:
                roots = tuple(self.find(factor) for factor in factors)
                tuples = known.setdefault(self.find(whole), [])
                if roots not in tuples:
                    tuples.append(roots)
            nested: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
            self.products = []
            for whole, (first, *others) in known.items():
                self.products.append((whole, first))
                for other in others:
                    if self._nests(first, other):
                        nested.append((first, other))
                    else:
                        self.products.append((whole, other))
            if not nested:
                return
            for first, other in nested:
                self.align(first, other, "")

    def _nests(self, left: Sequence[int], right: Sequence[int]) -> bool:
        cuts = sorted({*self._cuts(left), *self._cuts(right)})
        return all(cuts[at + 1] % cuts[at] == 0 for at in range(len(cuts) - 1))
