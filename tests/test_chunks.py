"""Runs of items that are worked on at once: in order, all of them, and no larger than they may be."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from onnxslim.chunks import chunks


@given(st.lists(st.integers(0, 20)), st.integers(0, 40))
def test_all_items_in_order_and_no_chunk_larger_than_allowed_unless_it_is_one_item(sizes, most):
    found = list(chunks(sizes, int, most))
    assert [size for chunk in found for size in chunk] == sizes
    assert all(chunk and (sum(chunk) <= most or len(chunk) == 1) for chunk in found)
    assert all(sum(one) + other[0] > most for one, other in itertools.pairwise(found))
