"""The axes of all values of a graph, and what its nodes say about them: a union of equal axes, and open relations."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from onnxslim.arrays import Indices
from onnxslim.ops.binding import Dimensions, FactorKey, dimensions
from onnxslim.ops.relations import (
    AnyAxis,
    Axis,
    Equal,
    Factor,
    Factored,
    Freeze,
    FreezeCode,
    Frozen,
    Mixes,
    Pairs,
    Relation,
    SameElements,
)

LONGEST = 1 << 18
"""A longer axis holds no channels; it is treated as one whose size is not known."""


class AxisRelations:
    """What is known about axes. An axis is a number; `axes` gives those of a value, `fresh` one of a factor.

    Axes that are one are merged at once (`equate`). Everything else is written down, and solved by `labels.solve`.
    """

    def __init__(self) -> None:
        self.sizes: list[int | None] = []
        """The length of each axis; None where it is symbolic."""
        self.products: list[tuple[int, tuple[int, ...]]] = []
        """(axis, its factors, the slowest first)."""
        self.pairs: list[tuple[int, Indices, int, Indices]] = []
        """(axis, indices, axis, indices): these indices are pairwise the same channel."""
        self.frozen: list[tuple[int, Freeze]] = []
        """(axis, why)."""
        self.mixed: list[int] = []
        """Axes that some op mixes along (norms, means): cutting them is sound, but not exact."""
        self._parent: list[int] = []
        self._of_value: dict[ir.Value, tuple[int, ...]] = {}
        self._shapes: dict[ir.Value, Dimensions] = {}

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
        found = self._of_value.get(value)
        if found is None:
            shape = dimensions(value)
            if shape is None:
                return None
            known = self._shapes[value] = tuple(None if size is not None and size > LONGEST else size for size in shape)
            found = self._of_value[value] = tuple(range(len(self.sizes), len(self.sizes) + len(shape)))
            self._parent += found
            self.sizes += known
        return found

    def values(self) -> dict[ir.Value, tuple[int, ...]]:
        """Return all values that have been asked for, with their axes."""
        return self._of_value

    def shape(self, value: ir.Value) -> Dimensions | None:
        """Return the sizes of the axes of `value`, None for those that are symbolic, or None for an unknown rank."""
        if value not in self._shapes:
            self.axes(value)
        return self._shapes.get(value)

    def add(self, node: ir.Node, relations: Iterable[Relation]) -> dict[FactorKey, int]:
        """Take in what `node` says about the axes of its operands; return the axis that each factor is of its row."""
        factors: dict[FactorKey, int] = {}

        def number(axis: AnyAxis) -> int:
            if isinstance(axis, Axis):
                return self._of_value[axis.value][axis.position]
            key = axis[:2]
            if key not in factors:
                factors[key] = self.fresh(axis.size)
            return factors[key]

        for relation in relations:
            if isinstance(relation, Equal):
                first = relation.first
                if isinstance(first, Factor) and first[:2] not in factors:
                    factors[first[:2]] = number(relation.second)
                else:
                    self.equate(number(first), number(relation.second), node)
            elif isinstance(relation, Frozen):
                self.freeze(number(relation.axis), relation.why)
            elif isinstance(relation, Factored):
                self.multiply(number(relation.whole), [number(part) for part in relation.factors], node)
            elif isinstance(relation, Pairs):
                left, right = number(relation.first), number(relation.second)
                self.pairs.append((left, relation.first_indices, right, relation.second_indices))
            elif isinstance(relation, SameElements):
                runs = [[number(axis) for axis in axes] for axes in (relation.first, relation.second)]
                self.align(runs[0], runs[1], node)
            elif isinstance(relation, Mixes):
                self.mixed.append(number(relation.axis))
        return factors

    def freeze(self, axis: int, why: Freeze) -> None:
        """Say that `axis` must stay."""
        if self.sizes[self.find(axis)] not in (None, 1):
            self.frozen.append((axis, why))

    def freeze_value(self, value: ir.Value, why: Freeze) -> None:
        """Say that every axis of `value` must stay."""
        for axis in self.axes(value) or ():
            self.freeze(axis, why)

    def equate(self, left: int, right: int, node: ir.Node | None) -> None:
        """Say that two axes are one. Where their sizes do not agree, too little is known, and both are frozen."""
        left, right = self.find(left), self.find(right)
        if left == right:
            return
        if self.sizes[left] == self.sizes[right]:
            self._parent[right] = left
            return
        why = Freeze(FreezeCode.UNKNOWN_SIZE, node)
        self.freeze(left, why)
        self.freeze(right, why)

    def multiply(self, whole: int, factors: Sequence[int], node: ir.Node | None) -> None:
        """Say that `whole` is the product of `factors`, the slowest first."""
        long = [factor for factor in factors if self.sizes[self.find(factor)] != 1]
        if len(long) == 1:
            self.equate(whole, long[0], node)
        elif long:
            sizes = [self.sizes[self.find(factor)] for factor in long]
            whole_size = self.sizes[self.find(whole)]
            if None in sizes or whole_size != math.prod(size or 0 for size in sizes):
                why = Freeze(FreezeCode.UNKNOWN_SIZE, node)
                for axis in (whole, *long):
                    self.freeze(axis, why)
            else:
                self.products.append((whole, tuple(long)))

    def align(self, left: Sequence[int], right: Sequence[int], node: ir.Node | None) -> None:
        """Say that two runs of axes hold the same elements in the same order, as a reshape does.

        The finest factors that both runs are products of are found: (6, 4) and (3, 8) are (3*2, 4) and (3, 2*4). Runs
        without such factors, (2, 3) and (3, 2), are frozen.
        """
        left = [axis for axis in left if self.sizes[self.find(axis)] != 1]
        right = [axis for axis in right if self.sizes[self.find(axis)] != 1]
        left_cuts, right_cuts = self._cuts(left), self._cuts(right)
        cuts = sorted({*left_cuts, *right_cuts})
        if left_cuts[-1:] != right_cuts[-1:] or not self._nests(left, right):
            why = Freeze(
                FreezeCode.NO_COMMON_FACTORS, node, f"{self._shape(left)} do not factor into {self._shape(right)}"
            )
            for axis in (*left, *right):
                self.freeze(axis, why)
            return
        finest = {cut: self.fresh(cut // below) for below, cut in zip([1, *cuts], cuts, strict=False)}
        for axes, ends in ((left, left_cuts), (right, right_cuts)):
            for axis, below, end in zip(reversed(axes), [1, *ends], ends, strict=False):
                self.multiply(axis, [finest[cut] for cut in reversed(cuts) if below < cut <= end], node)

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
                for second in others:
                    if self._nests(first, second):
                        nested.append((first, second))
                    else:
                        self.products.append((whole, second))
            if not nested:
                return
            for first, second in nested:
                self.align(first, second, None)

    def _nests(self, left: Sequence[int], right: Sequence[int]) -> bool:
        cuts = sorted({*self._cuts(left), *self._cuts(right)})
        return all(cuts[index + 1] % cuts[index] == 0 for index in range(len(cuts) - 1))
