"""Rounds the weights of one group of outputs so that their sums change least, on whatever levels there are.

One column after the other is rounded, the one that reads most first, and the columns that are not rounded yet make up
for the error (GPTQ: Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
transformers", ICLR 2023). Then each column moves to the level that is best where the others are as they are
(coordinate descent on the same error), until none does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxslim.arrays import Floats

Nearest = Callable[[int, Floats], Floats]
"""Returns the nearest levels of numbers of one column, shape [outputs]."""
PIECE = 64
"""Columns that are worked on before the others hear of it: products of matrices are faster than those of vectors."""
ROUNDS = 3
"""Rounds of coordinate descent at most; few levels move after the first."""


def round_with_feedback(weight: Floats, moment: Floats, nearest: Nearest) -> Floats:
    """Return the weight on levels, shape [columns, outputs].

    Args:
        weight: Shape [columns, outputs].
        moment: The mean of products of the columns that it is multiplied with, positive definite: [columns, columns].
        nearest: The levels of each column.
    """
    order = np.argsort(-np.diagonal(moment), kind="stable")
    ordered = moment[np.ix_(order, order)]
    rounded = _with_feedback(weight[order], ordered, lambda index, values: nearest(int(order[index]), values))
    _descend(weight[order], ordered, rounded, lambda index, values: nearest(int(order[index]), values))
    result = np.empty_like(rounded)
    result[order] = rounded
    return result


def _with_feedback(weight: Floats, moment: Floats, nearest: Nearest) -> Floats:
    factor = np.linalg.cholesky(np.linalg.inv(moment)).T
    left, rounded = weight.copy(), np.empty_like(weight)
    for start in range(0, len(weight), PIECE):
        piece = slice(start, min(start + PIECE, len(weight)))
        errors = np.empty((piece.stop - start, weight.shape[1]))
        for index in range(start, piece.stop):
            rounded[index] = nearest(index, left[index])
            error = errors[index - start] = (left[index] - rounded[index]) / factor[index, index]
            left[index + 1 : piece.stop] -= np.outer(factor[index, index + 1 : piece.stop], error)
        left[piece.stop :] -= factor[piece, piece.stop :].T @ errors
    return rounded


def _descend(weight: Floats, moment: Floats, rounded: Floats, nearest: Nearest) -> None:
    """Move columns of `rounded` to better levels, in place."""
    slopes = moment @ (rounded - weight)
    for _ in range(ROUNDS):
        moved = False
        for start in range(0, len(weight), PIECE):
            piece = slice(start, min(start + PIECE, len(weight)))
            before, own = rounded[piece].copy(), slopes[piece].copy()
            for index in range(start, piece.stop):
                column = index - start
                best = nearest(index, rounded[index] - own[column] / moment[index, index])
                change = best - rounded[index]
                if change.any():
                    own += np.outer(moment[piece, index], change)
                    rounded[index] = best
            change = rounded[piece] - before
            if change.any():
                moved = True
                slopes += moment[:, piece] @ change
        if not moved:
            return
