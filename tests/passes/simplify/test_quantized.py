"""Simplification leaves quantized models at least as much int8 as they had."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

import onnxslim
from onnxslim.runtime.placement import RunsIn, place
from onnxslim.runtime.target import detect_target

CPU = detect_target("cpu", 1)


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_what_is_moved_between_pairs_does_not_keep_products_from_int8(kind: type) -> None:
    """int8 that is moved without DequantizeLinear keeps ONNX Runtime from making it the uint8 that it multiplies."""
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[2,8,16] x) => (float[] y) {
        xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z) wd = DequantizeLinear (w, k)
        a = MatMul (xd, wd) aq = QuantizeLinear (a, s, z) ad = DequantizeLinear (aq, s, z)
        b = Reshape (ad, shape) bq = QuantizeLinear (b, s, z) bd = DequantizeLinear (bq, s, z)
        c = Transpose <perm = [1, 0, 2]> (bd) cq = QuantizeLinear (c, s, z) cd = DequantizeLinear (cq, s, z)
        e = MatMul (cd, wd) eq = QuantizeLinear (e, s, z) ed = DequantizeLinear (eq, s, z) y = Tanh (ed)
    }"""
    model = from_text(
        text,
        s=np.float32(0.1),
        z=np.array(3, kind),
        w=np.random.default_rng(0).integers(-99, 99, (16, 16)).astype(np.int8),
        k=np.float32(0.01),
        shape=np.array([4, 4, 16]),
    )
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 8, 16)).astype(np.float32)}
    result = onnxslim.optimize(model, "simplify", provider="cpu", threads=1, measure=False)
    before, after = (list(place(each, feeds, CPU, runs=2).places.values()) for each in (model, result.model))
    assert before.count(RunsIn.INT8) > 2
    assert after.count(RunsIn.INT8) >= before.count(RunsIn.INT8)
    assert after.count(RunsIn.CONVERSION) <= before.count(RunsIn.CONVERSION)
