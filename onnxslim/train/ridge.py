"""Ridge regression whose strength is chosen by rows that were set aside, primal or dual, whichever is smaller."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""What is tried: the weight of the present solution, relative to the mean energy of a column over all rows."""
DEFAULT = 1e-2
"""The strength where there are too few rows to set any aside."""
FLOOR = 1e-9
"""Keeps columns that are always 0 from making the equations singular; relative to a column of ones."""

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Solution:
    """What is to be added to the present weights."""

    weights: Array
    """Shape [groups, columns, outputs]."""
    bias: Array
    """Shape [groups, outputs]; 0 where there is no intercept."""


class Regression:
    """Rows of inputs, piece by piece; products of one piece in single precision, their sums in double.

    Args:
        pieces: Inputs, each of shape [groups, rows, columns].
        intercept: Whether there is a bias.
    """

    def __init__(self, pieces: Sequence[Rows], *, intercept: bool) -> None:
        self._pieces = pieces
        self.count = sum(piece.shape[1] for piece in pieces)
        groups, _, width = pieces[0].shape
        total = sum((piece.sum(axis=1, dtype=np.float64) for piece in pieces), np.zeros((groups, width)))
        self._mean: Array = total / max(self.count, 1) if intercept else np.zeros((groups, width))
        self._dual = self.count < width
        if self._dual:
            centred = np.concatenate(pieces, axis=1).astype(np.float64) - self._mean[:, None]
            self._centred: Array = centred
            self._gram: Array = centred @ centred.transpose(0, 2, 1)
            energy = np.trace(self._gram, axis1=1, axis2=2)
        else:
            self._gram = sum(
                ((piece.transpose(0, 2, 1) @ piece).astype(np.float64) for piece in pieces),
                np.zeros((groups, width, width)),
            )
            self._gram -= self.count * self._mean[:, :, None] * self._mean[:, None]
            energy = np.trace(self._gram, axis1=1, axis2=2)
        self._scale: Array = energy / width
        self._intercept = intercept

    def solve(self, wanted: Sequence[Rows], strength: float) -> Solution:
        """Return what makes the inputs into `wanted`, rows of shape [groups, rows, outputs], at the least cost."""
        mean = sum((each.sum(axis=1, dtype=np.float64) for each in wanted), np.zeros(wanted[0].shape[::2]))
        mean = mean / max(self.count, 1) if self._intercept else np.zeros_like(mean)
        penalty = (strength * self._scale + FLOOR * self.count)[:, None, None] * np.eye(self._gram.shape[-1])
        if self._dual:
            centred = np.concatenate(wanted, axis=1).astype(np.float64) - mean[:, None]
            weights = self._centred.transpose(0, 2, 1) @ np.linalg.solve(self._gram + penalty, centred)
        else:
            weights = np.linalg.solve(self._gram + penalty, self._moment(wanted, mean))
        return Solution(weights, mean - (self._mean[:, None] @ weights)[:, 0])

    def _moment(self, wanted: Sequence[Rows], mean: Array) -> Array:
        moment = sum(
            (
                (piece.transpose(0, 2, 1) @ each).astype(np.float64)
                for piece, each in zip(self._pieces, wanted, strict=True)
            ),
            np.zeros((*self._mean.shape, wanted[0].shape[2])),
        )
        centred: Array = moment - self.count * self._mean[:, :, None] * mean[:, None]
        return centred


def predict(piece: Rows, solution: Solution) -> Rows:
    """Return what a solution makes of a piece of the inputs."""
    rows: Rows = piece @ solution.weights.astype(np.float32) + solution.bias[:, None].astype(np.float32)
    return rows


def strength(pieces: Sequence[Rows], wanted: Sequence[Rows], *, intercept: bool, share: int = 4) -> float:
    """Return the strength that serves every `share`-th piece best when it is solved on the others; infinite where none
    does better than no change."""
    aside = range(share - 1, len(pieces), share)
    if not aside:
        return DEFAULT
    others = [at for at in range(len(pieces)) if at not in aside]
    regression = Regression([pieces[at] for at in others], intercept=intercept)
    best, least = np.inf, sum(float(np.square(wanted[at], dtype=np.float64).sum()) for at in aside)
    for each in STRENGTHS:
        solution = regression.solve([wanted[at] for at in others], each)
        error = sum(
            float(np.square(wanted[at] - predict(pieces[at], solution), dtype=np.float64).sum()) for at in aside
        )
        if error < least:
            best, least = each, error
    return best
