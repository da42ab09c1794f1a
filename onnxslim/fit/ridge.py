"""Ridge regression whose strength is chosen by rows that were set aside, primal or dual, whichever is smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from onnxslim.arrays import Floats, Singles
from onnxslim.observe.products import add_products, sum_of_rows

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""What is tried: the weight of the present solution, relative to the mean energy of a column over all rows."""
DEFAULT = 1e-2
"""The strength where there are too few rows to set any aside."""
SHARE = 4
"""One piece in as many is set aside."""
FLOOR = 1e-9
"""Keeps columns that are always 0 from making the equations singular; relative to a column of ones."""

Moments = tuple[Floats, "Floats | None"]
"""The sum of rows, and of their products with the inputs; None where there are fewer rows than columns (dual)."""


@dataclasses.dataclass(frozen=True)
class Solution:
    """What is to be added to the present weights."""

    weights: Floats
    """Shape [groups, columns, outputs]."""
    bias: Floats
    """Shape [groups, outputs]; 0 where there is no intercept."""


class RidgeRegression:
    """Rows of inputs, piece by piece; products of one piece in single precision, their sums in double.

    Every fourth piece may be set aside, to see how well what the others teach serves it.

    Args:
        pieces: Inputs, each of shape [groups, rows, columns].
        intercept: Whether there is a bias.
    """

    def __init__(self, pieces: Sequence[Singles], *, intercept: bool) -> None:
        self._pieces = pieces
        self._intercept = intercept
        self._width = pieces[0].shape[2]
        self._dual = sum(piece.shape[1] for piece in pieces) < self._width
        self._aside = [index % SHARE == SHARE - 1 for index in range(len(pieces))]
        self._counts = [sum(piece.shape[1] for piece in self._fold(pieces, aside)) for aside in (False, True)]
        self._moments = [self._products(pieces, aside) for aside in (False, True)]
        self._dual_parts: dict[tuple[bool, ...], tuple[Floats, Floats]] = {}

    def strength(self, wanted: Sequence[Singles]) -> float:
        """Return the strength that serves what was set aside best when the rest teaches; infinite where none does
        better than no change.

        Args:
            wanted: What the inputs are to be made into, each of shape [groups, rows, outputs].
        """
        if not any(self._aside):
            return DEFAULT
        best, least = np.inf, 0.0
        count, (total, gram), (target, moment) = self._counts[1], self._moments[1], self._products(wanted, True)
        taught = [self._products(wanted, False)]
        for strength in STRENGTHS:
            change = self._solved(wanted, strength, (False,), taught)
            weights, bias = change.weights, change.bias
            # The squared error less that of no change, summed over all that was set aside.
            if gram is None or moment is None:
                error = 0.0
                for piece, rows in zip(self._fold(self._pieces, True), self._fold(wanted, True), strict=True):
                    left = np.square(rows - predict(piece, change), dtype=np.float64)
                    error += float((left - np.square(rows, dtype=np.float64)).sum())
            else:
                made = gram @ weights + total[:, :, None] * bias[:, None]
                error = float(((made - 2 * moment) * weights).sum())
                through = (total[:, None] @ weights)[:, 0]
                error += float((bias * (count * bias + through - 2 * target)).sum())
            if error < least:
                best, least = strength, error
        return best

    def solve(self, wanted: Sequence[Singles], strength: float) -> Solution:
        """Return what makes the inputs into `wanted`, rows of shape [groups, rows, outputs], at the least cost."""
        folds = (False, True)
        return self._solved(wanted, strength, folds, [self._products(wanted, fold) for fold in folds])

    def _solved(
        self, wanted: Sequence[Singles], strength: float, folds: Sequence[bool], products: Sequence[Moments]
    ) -> Solution:
        moments = [self._moments[fold] for fold in folds]
        count = sum(self._counts[fold] for fold in folds)
        mean, middle = (np.sum([total for total, _ in parts], axis=0) / max(count, 1) for parts in (moments, products))
        if not self._intercept:
            mean, middle = 0 * mean, 0 * middle
        if self._dual:
            inputs, gram = self._seen(tuple(folds), mean)
            outputs = self._stacked(wanted, folds) - middle[:, None]
            solved = np.linalg.solve(gram + self._penalty(gram, strength, count), outputs)
            weights: Floats = inputs.transpose(0, 2, 1) @ solved
        else:
            gram, moment = (
                np.sum([part for _, part in parts if part is not None], axis=0) for parts in (moments, products)
            )
            gram -= count * mean[:, :, None] * mean[:, None]
            moment -= count * mean[:, :, None] * middle[:, None]
            weights = np.linalg.solve(gram + self._penalty(gram, strength, count), moment)
        return Solution(weights, middle - (mean[:, None] @ weights)[:, 0])

    def _seen(self, folds: tuple[bool, ...], mean: Floats) -> tuple[Floats, Floats]:
        """Return the inputs of some folds about their mean, and products of their rows: the same for each strength."""
        if folds not in self._dual_parts:
            inputs = self._stacked(self._pieces, folds) - mean[:, None]
            self._dual_parts[folds] = inputs, inputs @ inputs.transpose(0, 2, 1)
        return self._dual_parts[folds]

    def _penalty(self, gram: Floats, strength: float, count: int) -> Floats:
        scale = np.trace(gram, axis1=1, axis2=2) / self._width
        penalty: Floats = (strength * scale + FLOOR * count)[:, None, None] * np.eye(gram.shape[-1])
        return penalty

    def _stacked(self, pieces: Sequence[Singles], folds: Sequence[bool]) -> Floats:
        chosen = [piece for piece, aside in zip(pieces, self._aside, strict=True) if aside in folds]
        return np.concatenate(chosen, axis=1).astype(np.float64)

    def _fold(self, pieces: Sequence[Singles], aside: bool) -> list[Singles]:
        return [piece for piece, fold in zip(pieces, self._aside, strict=True) if fold == aside]

    def _products(self, wanted: Sequence[Singles], aside: bool) -> Moments:
        """Return the sum of the rows of `wanted` in a fold, and of their products with the inputs, unless dual."""
        groups, _, outputs = wanted[0].shape
        total = np.zeros((groups, outputs))
        moment = None if self._dual else np.zeros((groups, self._width, outputs))
        for piece, rows in zip(self._fold(self._pieces, aside), self._fold(wanted, aside), strict=True):
            total += sum_of_rows(rows)
            if moment is not None:
                add_products(moment, piece, rows)
        return total, moment


def predict(piece: Singles, solution: Solution) -> Singles:
    """Return what a solution makes of a piece of the inputs."""
    rows: Singles = piece @ solution.weights.astype(np.float32)
    rows += solution.bias[:, None].astype(np.float32)
    return rows
