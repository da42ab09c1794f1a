"""Sums of products of rows in single precision, of which no more is lost than the rows themselves have lost.

Where rows are far from zero and near to each other, their products say little else than their mean: what is left when
that is taken away is rounding. So products are summed about the mean of the rows, and the mean is put back in double.
"""

from __future__ import annotations

import numpy as np

from onnxslim.arrays import Array, Floats

BLOCK = 256
"""Rows of the result that are made double at a time."""


def sum_of_rows(rows: Array) -> Floats:
    """Return the sum of rows, shape [..., rows, columns], in double precision: [..., columns]."""
    total: Floats = rows.sum(axis=-2, dtype=np.float64)
    return total


def add_products(total: Floats, one: Array, other: Array) -> None:
    """Add the sum over rows of x y' to `total`, in place, shape [..., columns of one, columns of other].

    Beside `total` no more is allocated than the rows about their mean, and their products in their own precision: where
    columns are many, any further copy in double precision would be the largest thing in memory.

    Args:
        total: What is added to.
        one: Array x, shape [..., rows, columns], in single precision or better.
        other: As many rows y.
    """
    count = one.shape[-2]
    if not count:
        return
    x, m, sum_x = _centred(one)
    y, n, sum_y = (x, m, sum_x) if other is one else _centred(other)
    products = x.swapaxes(-1, -2) @ y
    del x, y
    # The sum of (x + m)(y + n)' is that of xy', and (sum of x + count m) n' + m (sum of y)'.
    left, right = np.stack([sum_x + count * m, m], axis=-1), np.stack([n, sum_y], axis=-2)
    for start in range(0, products.shape[-2], BLOCK):
        block = slice(start, start + BLOCK)
        total[..., block, :] += products[..., block, :] + left[..., block, :] @ right


def _centred(rows: Array) -> tuple[Array, Floats, Floats]:
    """Return rows about their mean, the mean, and the sum of what is left: the mean is rounded."""
    mean = rows.mean(axis=-2, dtype=np.float64).astype(rows.dtype)
    left = rows - mean[..., None, :]
    return left, mean.astype(np.float64), sum_of_rows(left)
