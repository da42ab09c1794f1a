"""What is trained is what a model has learnt: weights, biases, scales; not constants that say what it computes."""

from __future__ import annotations

import numpy as np
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.train.parameters import trainable_parameters


def test_weights_biases_and_scales_are_trained_and_nothing_else() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[2,3,8,8] x) => (float[2,5] z) {
        centred = Sub (x, pixels)  a = Conv (centred, w, b)  n = BatchNormalization (a, scale, shift, mean, variance)
        r = Relu (n)  p = GlobalAveragePool (r)  f = Flatten (p)  m = MatMul (f, v)  z0 = Add (m, c)  z = Mul (z0, half)
    }"""
    random = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return random.random(shape).astype(np.float32)

    model = from_text(
        text, pixels=drawn(1, 3, 1, 1), w=drawn(4, 3, 3, 3), b=drawn(4), scale=drawn(4), shift=drawn(4), mean=drawn(4),
        variance=drawn(4), v=drawn(4, 5), c=drawn(5), half=np.float32(0.5),
    )  # fmt: skip
    infer_shapes(model)
    assert {value.name for value in trainable_parameters(model.graph)} == {"w", "b", "scale", "shift", "v", "c"}
