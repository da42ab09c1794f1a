"""Sums of products of rows in single precision, of which no more is lost than the rows themselves have lost.

Where rows are far from zero and near to each other, their products say little else than their mean: what is left when
that is taken away is rounding. So products are summed about the mean of the rows, and the mean is put back in double.
"""

from __future__ import annotations

import numpy as np

from onnxslim.arrays import Array, Floats


def sum_of_rows(rows: Array) -> Floats:
    """Return the sum of rows, shape [..., rows, columns], in double precision: [..., columns]."""
    total: Floats = rows.sum(axis=-2, dtype=np.float64)
    return total


def sum_of_products(one: Array, other: Array) -> Floats:
    """Return the sum over rows of x y', shape [..., columns of one, columns of other].

    Args:
        one: Array x, shape [..., rows, columns], in single precision or better.
        other: As many rows y.
    """
    count = one.shape[-2]
    if not count:
        return np.zeros((*one.shape[:-2], one.shape[-1], other.shape[-1]))
    x, m, sum_x = _centred(one)
    y, n, sum_y = (x, m, sum_x) if other is one else _centred(other)
    total: Floats = (x.swapaxes(-1, -2) @ y).astype(np.float64)
    # The sum of (x + m)(y + n)' is that of xy', and (sum of x + count m) n' + m (sum of y)'.
    total += np.stack([sum_x + count * m, m], axis=-1) @ np.stack([n, sum_y], axis=-2)
    return total


def _centred(rows: Array) -> tuple[Array, Floats, Floats]:
    """Return rows about their mean, the mean, and the sum of what is left: the mean is rounded."""
    mean = rows.mean(axis=-2, dtype=np.float64).astype(rows.dtype)
    left = rows - mean[..., None, :]
    return left, mean.astype(np.float64), sum_of_rows(left)
