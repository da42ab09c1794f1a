"""Weights as matrices, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from channel_models import built, weight
from onnxslim.passes.sparsify.layer import layer_of

from onnxslim.analysis.linear_layer import contractions


@pytest.mark.parametrize(
    ("text", "shape", "sizes"),
    [
        ("y = Conv <group = 2> (x, w)", (6, 2, 3, 2), (2, 3, 12)),
        ("y = Conv <group = 4> (x, w)", (4, 1, 3, 3), (4, 1, 9)),
        ("y = ConvTranspose (x, w)", (4, 6, 2, 2), (1, 6, 16)),
        ("a = Reshape (x, s) y = MatMul (a, w)", (64, 6), (1, 6, 64)),
    ],
)
def test_weights_survive_the_way_there_and_back(text: str, shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    model = built(f"g (float[2,4,4,4] x) => (float y) {{ {text} }}", w=weight(*shape), s=np.array([2, 64], np.int64))
    (contraction,) = contractions(model.graph)
    layer = layer_of(contraction)
    before = contraction.weight.const_value.numpy().copy()
    assert layer.matrix().shape == layer.shape == sizes
    if contraction.regular:  # the same columns as those of what it reads
        np.testing.assert_array_equal(layer.matrix().transpose(0, 2, 1), contraction.blocks())
    layer.write(2 * layer.matrix())
    np.testing.assert_array_equal(contraction.weight.const_value.numpy(), 2 * before)
