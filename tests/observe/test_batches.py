"""Samples run together as far as memory allows, and in several batches."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.data import open_samples
from onnxslim.observe import batches
from onnxslim.observe.batches import batch_size
from onnxslim.runtime.session import Session


@pytest.mark.parametrize(("count", "most", "expected"), [(1, 1e9, 1), (12, 1e9, 4), (1000, 1e9, 32), (1000, 1000, 3)])
def test_the_largest_value_and_samples_bound_it(monkeypatch, count: int, most: float, expected: int) -> None:
    model = from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N,8] x, float[8,80] w) => (y) { y = MatMul (x, w) }',
        w=np.ones((8, 80), np.float32),
    )
    monkeypatch.setattr(batches, "BYTES", most)
    samples = open_samples({"x": np.ones((count, 8), np.float32)}, Session.of(model).inputs)
    assert batch_size(model, samples, at_least=3) == expected
