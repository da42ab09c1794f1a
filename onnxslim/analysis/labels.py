"""Solves the relations between axes: every index of every axis gets a label, and equal labels go together.

An index of an axis that is a product has no label of its own: it goes where any index of its factors goes. Where an
axis is a product in two ways that do not nest (a channel shuffle), all factors but the longest are frozen, so that
the index again has one label. What is solved is sound in every case; only how much is frozen depends on these
choices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.arrays import Indices, Mask
from onnxslim.ops.relations import Freeze, FreezeCode


@dataclasses.dataclass(frozen=True)
class Labels:
    """The solution. A label is a number below `count`; `root` maps it to the one that stands for its class."""

    count: int
    start: dict[int, int]
    """The first label of each axis that stands for others."""
    root: Indices
    reason: Indices
    """For each label the freeze that holds for its class, an index into `freezes`; -1 where it may be cut."""
    freezes: tuple[Freeze, ...]
    derived: Mask
    """For each root label whether it goes where others go, and never by itself."""
    mixed: Mask
    """For each root label whether an op mixes along one of its axes."""
    implied: Indices
    """Rows of (root that goes, derived root that goes with it), transitively, sorted by the second."""

    def removed(self, roots: Indices) -> Mask:
        """Return for every label whether it goes when `roots` go."""
        gone = np.zeros(self.count, np.bool_)
        gone[roots] = True
        gone[self.implied[gone[self.implied[:, 0]], 1]] = True
        return gone[self.root]

    def bases(self, labels: Indices) -> tuple[Indices, Indices]:
        """Return (places in `labels`, roots): the roots that may be cut by themselves and take that place with them."""
        roots = self.root[labels]
        own = np.flatnonzero((self.reason[roots] < 0) & ~self.derived[roots])
        causes, effects = self.implied[:, 0], self.implied[:, 1]
        rows, positions = _equal_pairs(roots, effects)
        places = np.concatenate([own, rows])
        found = np.concatenate([roots[own], causes[positions]])
        alone = (self.reason[found] < 0) & ~self.derived[found]
        return places[alone], found[alone]


_NONE = np.iinfo(np.int64).max
"""The reason of a label that may be cut, while solving: larger than any."""


@dataclasses.dataclass(frozen=True)
class _ProductRows:
    """A product, index by index."""

    whole: Indices
    """The labels of the axis that is a product."""
    factors: Indices
    """For each of them the labels of the factors, in columns."""
    places: Indices
    """The same as indices into the factors."""
    sizes: tuple[int, ...]


def solve(relations: AxisRelations) -> Labels:
    """Return the labels of all axes that `relations` knows."""
    relations.refine()
    start: dict[int, int] = {}
    count = 0
    for axis, size in enumerate(relations.sizes):
        if relations.find(axis) == axis and size is not None:
            start[axis] = count
            count += size

    def first(axis: int) -> int:
        return start[relations.find(axis)]

    def size_of(axis: int) -> int:
        return relations.sizes[relations.find(axis)] or 0

    frozen = sorted(relations.frozen, key=lambda item: item[1].inherent)
    freezes = [why for _, why in frozen]
    reason: Indices = np.full(count, _NONE, np.int64)
    earliest: dict[int, int] = {}
    for index, (axis, _) in enumerate(frozen):
        earliest.setdefault(relations.find(axis), index)
    for axis in earliest.keys() & start.keys():
        reason[start[axis] : start[axis] + size_of(axis)] = earliest[axis]

    # An axis must not run empty, so the one place of an axis of size 1 stays.
    single = len(freezes)
    freezes.append(Freeze(FreezeCode.SINGLE))
    for axis, label in start.items():
        if relations.sizes[axis] == 1:
            reason[label] = min(reason[label], single)

    known = [pair for pair in relations.pairs if {relations.find(pair[0]), relations.find(pair[2])} <= start.keys()]
    left = [first(axis) + indices for axis, indices, _, _ in known]
    right = [first(axis) + indices for _, _, axis, indices in known]
    root: Indices = components(np.arange(count), _joined(left), _joined(right))
    rows = [
        _rows(first(whole), [(first(part), size_of(part)) for part in parts]) for whole, parts in relations.products
    ]
    across = len(freezes)
    freezes.append(Freeze(FreezeCode.CUT_ACROSS))
    while True:
        reason = _spread(root, rows, reason)
        left_labels, right_labels, cut = _agree(root, rows, reason == _NONE)
        joined = components(root, left_labels, right_labels)
        reason[cut] = np.minimum(reason[cut], across)
        if np.array_equal(joined, root) and not len(cut):
            break
        root = joined
    derived = np.zeros(count, np.bool_)
    implied: list[Indices] = []
    for product in rows:
        alive = reason[product.factors] == _NONE
        several = alive.sum(axis=1) > 1
        for column in range(product.factors.shape[1]):
            chosen = several & alive[:, column] & (root[product.factors[:, column]] != root[product.whole])
            implied.append(np.stack([root[product.factors[chosen, column]], root[product.whole[chosen]]], axis=1))
            derived[root[product.whole[chosen]]] = True
    reason[reason == _NONE] = -1
    mixed = np.zeros(count, np.bool_)
    for axis in {relations.find(axis) for axis in relations.mixed} & start.keys():
        mixed[root[start[axis] : start[axis] + size_of(axis)]] = True
    for product in rows:
        mixed[root[product.factors[mixed[root[product.whole]]]]] = True
    return Labels(count, start, root, reason, tuple(freezes), derived, mixed, _closure(_joined(implied, 2), count))


def components(root: Indices, left: Indices, right: Indices) -> Indices:
    """Merge `left` and `right` pairwise; `root` and the result map each label to the smallest of its class.

    Hooking and pointer jumping: Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm", 1982.
    """
    root = root.copy()
    while len(left):
        left_root, right_root = root[left], root[right]
        apart = left_root != right_root
        left, right, left_root, right_root = left[apart], right[apart], left_root[apart], right_root[apart]
        np.minimum.at(root, np.maximum(left_root, right_root), np.minimum(left_root, right_root))
        while not np.array_equal(root, root[root]):
            root = root[root]
    return root


def _joined(parts: Sequence[Indices], columns: int = 0) -> Indices:
    empty = np.zeros((0, columns) if columns else 0, np.int64)
    return np.concatenate([empty, *parts])


def _rows(whole: int, factors: Sequence[tuple[int, int]]) -> _ProductRows:
    sizes = tuple(size for _, size in factors)
    places = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    return _ProductRows(
        whole + np.arange(len(places)), places + np.array([first for first, _ in factors]), places, sizes
    )


def _spread(root: Indices, rows: Sequence[_ProductRows], reason: Indices) -> Indices:
    """Freeze whole classes, the factors of what is frozen, and what has nothing but frozen factors."""
    while True:
        before = reason
        least = np.full(len(root), _NONE, np.int64)
        np.minimum.at(least, root, reason)
        reason = least[root]
        for product in rows:
            for column in range(product.factors.shape[1]):
                np.minimum.at(reason, product.factors[:, column], reason[product.whole])
            stuck = (reason[product.factors] != _NONE).all(axis=1)
            least_of_factors = reason[product.factors].min(axis=1)
            reason[product.whole[stuck]] = np.minimum(reason[product.whole[stuck]], least_of_factors[stuck])
        if np.array_equal(before, reason):
            return reason


def _agree(root: Indices, rows: Sequence[_ProductRows], free: Mask) -> tuple[Indices, Indices, Indices]:
    """Return labels to merge pairwise, and labels to freeze, so that every index is a product in one way."""
    left, right, frozen = [], [], []
    seen: dict[int, tuple[int, int]] = {}
    shared = _shared_wholes(root, rows)
    for number, product in enumerate(rows):
        alive = free[product.factors]
        single = alive.sum(axis=1) == 1
        left.append(product.whole[single])
        right.append(product.factors[single, alive[single].argmax(axis=1)])
        for row in np.flatnonzero((alive.sum(axis=1) > 1) & shared[root[product.whole]]):
            other_number, other_row = seen.setdefault(int(root[product.whole[row]]), (number, int(row)))
            earlier = rows[other_number]
            mine = product.factors[row, alive[row]]
            theirs = earlier.factors[other_row, free[earlier.factors[other_row]]]
            if set(root[mine].tolist()) == set(root[theirs].tolist()):
                continue
            if product.sizes == earlier.sizes and np.array_equal(product.places[row], earlier.places[other_row]):
                left.append(product.factors[row])
                right.append(earlier.factors[other_row])
                continue
            for odd in (product, earlier):
                longest = int(np.argmax(odd.sizes))
                frozen += [odd.factors[:, column] for column in range(len(odd.sizes)) if column != longest]
            return _joined(left), _joined(right), _joined(frozen)
    return _joined(left), _joined(right), _joined(frozen)


def _shared_wholes(root: Indices, rows: Sequence[_ProductRows]) -> Mask:
    """Return for every root whether two products, or two places of one, make it."""
    made = np.zeros(len(root), np.int64)
    for product in rows:
        np.add.at(made, root[product.whole], 1)
    return made > 1


def _equal_pairs(wanted: Indices, rising: Indices) -> tuple[Indices, Indices]:
    """Return the indices of all pairs of equal elements, one of `wanted` and one of `rising`, in the order of both."""
    begin, end = np.searchsorted(rising, wanted, "left"), np.searchsorted(rising, wanted, "right")
    repeats = end - begin
    offsets = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return np.repeat(np.arange(len(wanted)), repeats), np.repeat(begin, repeats) + offsets


def _closure(implied: Indices, count: int) -> Indices:
    """Return the pairs (a, b) and, wherever there are (a, b) and (b, c), also (a, c)."""
    known = _distinct(implied[:, 0] * count + implied[:, 1])
    while True:
        first, second = known // max(count, 1), known % max(count, 1)
        rows, positions = _equal_pairs(second, first)
        grown = _distinct(np.concatenate([known, first[rows] * count + second[positions]]))
        if len(grown) == len(known):
            return np.stack([first, second], axis=1)[np.argsort(second, kind="stable")]
        known = grown


def _distinct(numbers: Indices) -> Indices:
    """Return numbers from 0 on in order, each once; numpy's own hashes them, which takes ten times as long."""
    ordered = np.sort(numbers)
    return ordered[np.diff(ordered, prepend=-1) > 0]
