"""Sets weights to zero one column after the other, and lets the columns that follow make up for each.

Source: Frantar, Alistarh, "SparseGPT" (arXiv 2301.00774), algorithm 1: optimal brain surgery with one inverse for all
rows. Double precision throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Floats

BLOCK = 128
"""Columns among which weights are chosen at once; a multiple of every usual N:M group."""
DAMPING = 1e-2
"""Added to the diagonal of the Gram matrix, relative to its mean: few samples leave it singular."""

Choose = Callable[[Floats], npt.NDArray[np.bool_]]
"""Given how much each weight of a block matters, shape [outputs, columns], says which become zero."""


def eliminate(weight: Floats, gram: Floats, choose: Choose, block: int = BLOCK) -> Floats:
    """Return `weight` with the chosen elements zero and the others fitted to what it gave before.

    Args:
        weight: Shape [outputs, columns].
        gram: Sum of x x' over what the columns are multiplied with, shape [columns, columns].
        choose: Asked for each block of columns, from the first to the last.
        block: How many columns.
    """
    weight, columns = weight.copy(), weight.shape[1]
    factor = _inverse_factor(gram)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        part, own = weight[:, start:end].copy(), factor[start:end, start:end]
        gone = choose(part**2 / np.diag(own) ** 2)
        errors = np.zeros_like(part)
        for column in range(end - start):
            removed = np.where(gone[:, column], part[:, column], 0.0)
            errors[:, column] = removed / own[column, column]
            part[:, column:] -= np.outer(errors[:, column], own[column, column:])
        weight[:, start:end] = np.where(gone, 0.0, part)
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight


def _inverse_factor(gram: Floats) -> Floats:
    """Return the upper Cholesky factor of the inverse: row i is what column i may still change."""
    damping = DAMPING * float(np.mean(np.diag(gram))) or 1.0
    inverse = np.linalg.inv(gram + damping * np.eye(len(gram)))
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float64, copy=False)
