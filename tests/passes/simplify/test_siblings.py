"""Products that share an input become one; zero states are left out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnxslim.passes.simplify.rnn_initial_state import leave_out_zero_states
from onnxslim.passes.simplify.siblings import merge_siblings
from sample_models import from_text

from onnxslim.model import canonicalize, save_model


def run(model, path, x):
    save_model(model, path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def test_products_that_share_an_input(tmp_path):
    random = np.random.default_rng(0)
    a, b, c = (random.normal(size=size).astype(np.float32) for size in ((4, 2), (4, 3), (5, 4)))
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g
        (float[N,4] x, float[4,2] a, float[4,3] b, float[5,4] c) => (float[N,2] p, float[N,3] q, float[N,5] r) {
        p = MatMul (x, a)  q = MatMul (x, b)  r = Gemm <transB = 1> (x, c) }""",
        a=a,
        b=b,
        c=c,
    )
    canonicalize(model)
    assert merge_siblings(model) == 1
    assert [node.op_type for node in model.graph] == ["MatMul", "Split", "Gemm"]
    x = random.normal(size=(3, 4)).astype(np.float32)
    for got, weight in zip(run(model, tmp_path / "m.onnx", x), (a, b, c.T), strict=True):
        np.testing.assert_allclose(got, x @ weight, rtol=1e-5, atol=1e-5)


def test_zero_states():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g
        (float[S,B,2] x, float[1,4,2] w, float[1,4,1] r, float[1,1,1] h, int64[3] s)
        => (float[S,1,B,1] y, float[S,1,B,1] z)
        { c = ConstantOfShape (s)  y = LSTM <hidden_size = 1> (x, w, r, , , h, c)
          one = Exp (c)  z = LSTM <hidden_size = 1> (x, w, r, , , one, c) }""",
        h=np.zeros((1, 1, 1), np.float32),
    )
    canonicalize(model)
    assert leave_out_zero_states(model) == 3
    first, second = (node for node in model.graph if node.op_type == "LSTM")
    assert not any(first.inputs[5:])
    assert second.inputs[5] is not None
    ir.to_proto(model)
