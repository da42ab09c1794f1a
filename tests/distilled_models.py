"""A small convolutional net as student and teacher, its images, and how far the two are apart."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from sample_models import from_text

from onnxslim.runtime.session import Session

CONV = """<ir_version: 8, opset_import: ["" : %d]> g (float[N,3,8,8] x) => (%s) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu (a)  b = Conv <pads = [1,1,1,1]> (r, w2, b2)  s = Add (r, b)
    p = GlobalAveragePool (s)  f = Flatten (p)  z = Gemm (f, v, d)  %s
}"""
SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "v": (8, 5), "d": (5,)}


def network(opset: int = 18, softmax: bool = False, noise: float = 0.0) -> ir.Model:
    """Return a small convolutional net; `noise` is what its weights are off by."""
    random, off = np.random.default_rng(0), np.random.default_rng(1)
    weights = {k: random.standard_normal(s) / np.sqrt(np.prod(s[1:]) or 1) for k, s in SHAPES.items()}
    weights["v"] *= 4  # so that classes differ
    drawn = {k: (w + noise * np.std(w) * off.standard_normal(w.shape)).astype(np.float32) for k, w in weights.items()}
    end = "y = Softmax <axis = -1> (z)" if softmax else "y = Identity (z)"
    return from_text(CONV % (opset, "float[N,5] y", end), **drawn)


def images(count: int = 128, seed: int = 3, **more: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32), **more}


def error(student: ir.Model, teacher: ir.Model) -> float:
    """Return the mean squared difference of outputs on images that nothing was trained on."""
    feeds = images(64, 99)
    mine, wanted = (next(iter(Session.of(model).run(feeds).values())) for model in (student, teacher))
    return float(((mine - wanted) ** 2).mean())


NORMALIZED = """<ir_version: 8, opset_import: ["" : %d]> g (%s) => (%s) {
    a = Conv <pads = [1,1,1,1]> (x, w1)  n = BatchNormalization (a, s1, t1, m1, d1)  r = Relu (n)
    p = GlobalAveragePool (r)  f = Flatten (p)  y = MatMul (f, v) }"""


def normalized_network(
    opset: int = 18, width: int = 8, inputs: str = "float[N,3,8,8] x", output: str = "", dtype: str = "float[N,5]"
) -> ir.Model:
    """Return a net with drawn weights, whose BatchNormalization holds what it was initialised with.

    `output` is a value that is given out instead of y; `dtype` is the type of y.
    """
    random = np.random.default_rng(7)
    weights = {"w1": random.standard_normal((width, 3, 3, 3)) / 5, "v": random.standard_normal((width, 5)) / 2}
    weights |= {"s1": np.ones(width), "t1": np.zeros(width), "m1": np.zeros(width), "d1": np.ones(width)}
    given = f"float[N,M,H,W] {output}" if output else f"{dtype} y"
    return from_text(NORMALIZED % (opset, inputs, given), **{k: w.astype(np.float32) for k, w in weights.items()})


RESIDUAL = """<ir_version: 8, opset_import: ["" : %d]> g (float[%s,3,8,8] x) => (float[%s,5] y) {
    a = Conv <pads = [1,1,1,1]> (x, w0, b0)  s0 = Relu (a)
    c1 = Conv <pads = [1,1,1,1]> (s0, w1, b1)  r1 = Relu (c1)
    d1 = Conv <pads = [1,1,1,1]> (r1, w2, b2)  e1 = Add (s0, d1)  s1 = Relu (e1)
    c2 = Conv <pads = [1,1,1,1]> (s1, w3, b3)  r2 = Relu (c2)
    d2 = Conv <pads = [1,1,1,1]> (r2, w4, b4)  e2 = Add (s1, d2)  s2 = Relu (e2)
    p = AveragePool <kernel_shape = [8,8]> (s2)  f = Flatten (p)  z = Gemm (f, v, d)  %s }"""


def residual_network(opset: int = 18, softmax: bool = False, batch: str = "N") -> ir.Model:
    """Return a net of a stem, two residual blocks whose inner channels are twice as many, and a classifier."""
    random, wide = np.random.default_rng(0), 16
    shapes = {"w0": (8, 3, 3, 3), "w1": (wide, 8, 3, 3), "w2": (8, wide, 3, 3), "w3": (wide, 8, 3, 3)}
    shapes |= {"w4": (8, wide, 3, 3), "v": (8, 5), "d": (5,), "b0": (8,), "b1": (wide,), "b2": (8,), "b3": (wide,)}
    weights = {k: random.standard_normal(s) / np.sqrt(np.prod(s[1:]) or 1) for k, s in (shapes | {"b4": (8,)}).items()}
    weights["v"] *= 5 if softmax else 20
    end = "y = Softmax <axis = -1> (z)" if softmax else "y = Identity (z)"
    return from_text(RESIDUAL % (opset, batch, batch, end), **{k: w.astype(np.float32) for k, w in weights.items()})
