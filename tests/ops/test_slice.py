"""Which places a Slice takes is what ONNX Runtime takes: every start, end and step that clamps, wraps or runs away."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.ops.families.indexing import sliced_places
from onnxslim.runtime.session import Session

EDGES = [*range(-6, 7), 10**9, -(10**9), 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_places_of_a_slice(size: int) -> None:
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (int64[N] x, int64[1] s, int64[1] e, int64[1] a, int64[1] t)'
        " => (int64[M] y) { y = Slice (x, s, e, a, t) }"
    )
    session = Session.of(model, optimize=False)
    data, axis = np.arange(size), np.array([0])
    different = [
        (start, end, step)
        for start, end, step in itertools.product(EDGES, EDGES, (1, 2, 7, -1, -2, -7))
        if session.run({"x": data, "s": np.array([start]), "e": np.array([end]), "a": axis, "t": np.array([step])})[
            "y"
        ].tolist()
        != list(sliced_places(size, start, end, step))
    ]
    assert not different
