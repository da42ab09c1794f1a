"""Gram matrices against convolutions computed by ONNX Runtime, and weights that survive the way there and back."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.data import open_samples
from onnxslim.graph.contraction import contractions
from onnxslim.graph.shapes import infer_shapes
from onnxslim.runner.session import Session
from onnxslim.train.second_moments import grams, has_gram, layer_of


def net(body, x="float[N,4,5,5] x", **weights):
    model = from_text(f'<ir_version: 8, opset_import: ["" : 17]> g ({x}, float[1] w) => (y) {{ {body} }}', **weights)
    infer_shapes(model)
    (contraction,) = contractions(model.graph)
    return model, layer_of(contraction)


CASES = [
    ("y = Conv <pads = [1, 0, 0, 1], strides = [2, 1]> (x, w)", "float[N,4,5,5] x", (6, 4, 3, 2)),
    ("y = Conv <dilations = [2, 2], group = 2> (x, w)", "float[N,4,5,5] x", (6, 2, 2, 2)),
    ("y = Conv <group = 4> (x, w)", "float[N,4,5,5] x", (4, 1, 3, 3)),
    ("y = Conv (x, w)", "float[N,4,9] x", (6, 4, 3)),
    ("y = MatMul (x, w)", "float[N,3,8] x", (8, 6)),
    ("y = Gemm <transB = 1> (x, w)", "float[N,8] x", (6, 8)),
]


@pytest.mark.parametrize(("body", "x", "shape"), CASES)
def test_outputs_squared_are_weights_times_gram(body, x, shape):
    generator = np.random.default_rng(0)
    model, layer = net(body, x, w=generator.standard_normal(shape).astype(np.float32))
    sizes = [int(size) for size in x[x.index("[") + 3 : x.index("]")].split(",")]
    data = generator.standard_normal((3, *sizes)).astype(np.float32)
    session = Session.of(model)
    samples = open_samples({"x": data}, session.inputs)
    assert has_gram(layer)
    (sums,) = grams(model, [layer], samples, generator, Session.of).values()
    outputs = session.run({"x": data})["y"]
    weight = layer.matrix()
    assert sums.shape == (weight.shape[0], weight.shape[2], weight.shape[2])
    energy = np.einsum("goc,gcd,god->", weight, sums, weight)
    assert energy == pytest.approx(float(np.square(outputs.astype(np.float64)).sum()), rel=1e-4)
    before = layer.contraction.weight.const_value.numpy().copy()
    layer.write(weight)
    assert np.array_equal(layer.contraction.weight.const_value.numpy(), before)


def test_overlapping_windows_of_the_output_cannot_be_seen():
    _, layer = net("y = ConvTranspose (x, w)", w=np.ones((4, 6, 2, 2), np.float32))
    assert not has_gram(layer)
    _, layer = net('y = Conv <auto_pad = "SAME_UPPER"> (x, w)', w=np.ones((6, 4, 3, 3), np.float32))
    assert not has_gram(layer)
