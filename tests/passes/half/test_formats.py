"""Numbers in half precision: the nearest one, finite where the original is, and no zero in place of an epsilon."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnxslim.passes.half.formats import FORMATS, HalfType, as_half

BOTH = pytest.mark.parametrize("half", FORMATS.values(), ids=lambda half: half.name)
NUMBERS = arrays(np.float32, st.integers(2, 20), elements=st.floats(width=32))


@BOTH
@given(array=NUMBERS)
def test_what_is_in_range_is_rounded_and_the_rest_is_cut(half, array):
    result = as_half(array, half)
    assert result.dtype == half.dtype
    wide = result.astype(np.float64)
    finite = np.isfinite(array)
    np.testing.assert_array_equal(np.isfinite(wide), finite)
    exact = np.clip(array.astype(np.float64)[finite], -half.largest, half.largest)
    bound = np.maximum(np.abs(exact) * 2.0**-half.bits, half.smallest / 2)
    assert (np.abs(wide[finite] - exact) <= bound).all()
    np.testing.assert_array_equal(wide[~finite], array[~finite].astype(np.float64))


@BOTH
@given(number=st.floats(width=32, allow_nan=False).filter(bool))
def test_a_single_number_does_not_become_zero(half, number):
    result = as_half(np.float32([number]), half).astype(np.float64)
    assert np.sign(result) == np.sign(number)


@BOTH
def test_masks_are_cut_where_two_of_them_still_fit(half):
    result = as_half(np.float32([-3.4e38, -1.0, 5.0, -np.inf]), half, cut=True).astype(np.float64)
    assert result[0] == pytest.approx(-half.largest / 4, rel=2**-8)
    np.testing.assert_array_equal(result[1:], [-1, 5, -np.inf])


@BOTH
def test_the_constants_of_a_format_are_those_of_its_numbers(half):
    def number(value):
        with np.errstate(over="ignore", under="ignore"):
            return float(np.float32(value).astype(half.dtype))

    assert number(half.largest) == half.largest
    assert not np.isfinite(number(half.largest * (1 + 2.0 ** -(half.bits - 1))))
    assert number(half.smallest) == half.smallest
    assert number(half.smallest / 4) == 0
    assert number(half.counts_to) == half.counts_to
    assert number(half.counts_to + 1) != half.counts_to + 1
    assert set(FORMATS) == set(HalfType)
