"""A model of three convolutions that quantize, with an Elu and a Relu between."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes

TEXT = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    t = Tanh (x)  a = Conv (t, u)  h = Elu (a)  b = Conv (h, v)  r = Relu (b)  y = Conv (r, w) }"""


def net() -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Return a model of three convolutions, `a`, `b` and `y`, with random weights, and samples for it."""
    generator = np.random.default_rng(0)
    shapes = {"u": (4, 3, 1, 1), "v": (4, 4, 1, 1), "w": (4, 4, 1, 1)}
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = from_text(TEXT, **weights)
    infer_shapes(model)
    return model, {"x": generator.normal(size=(32, 3, 8, 8)).astype(np.float32)}
