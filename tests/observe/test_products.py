"""Sums of products of rows are right where the rows are far from zero, in single precision."""

from __future__ import annotations

import numpy as np
import pytest
from peak_memory import peak_bytes

from onnxslim.observe.products import add_products, sum_of_rows

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("offset", [0.0, 3000.0])
@pytest.mark.parametrize("shape", [(50,), (3, 50)])
def test_what_rows_have_beside_their_mean_is_not_lost(offset: float, shape: tuple[int, ...]) -> None:
    x, y = ((offset + 0.1 * GENERATOR.normal(size=(*shape, width))).astype(np.float32) for width in (4, 6))
    for one, other in ((x, y), (x, x)):
        wide, tall = one.astype(np.float64), other.astype(np.float64)
        means = wide.sum(axis=-2)[..., :, None] * tall.sum(axis=-2)[..., None, :] / shape[-1]
        sums = sum_of_rows(one)[..., :, None] * sum_of_rows(other)[..., None, :] / shape[-1]
        wanted = wide.swapaxes(-1, -2) @ tall - means
        total = np.ones(wanted.shape)
        add_products(total, one, other)
        np.testing.assert_allclose(total - 1 - sums, wanted, atol=1e-4)


def test_no_rows_sum_up_to_nothing() -> None:
    total = np.ones((2, 3))
    add_products(total, np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32))
    np.testing.assert_array_equal(total, 1)
    np.testing.assert_array_equal(sum_of_rows(np.zeros((0, 2), np.float32)), 0)


def test_nothing_as_large_as_the_sums_is_allocated_beside_them() -> None:
    """But for the products in single precision, of half their size."""
    rows, total = np.ones((20, 2000), np.float32), np.zeros((2000, 2000))
    assert peak_bytes(lambda: add_products(total, rows, rows)) < 0.9 * total.nbytes
