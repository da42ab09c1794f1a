"""Sizes that nobody knows, or that a file declares wrongly: nothing is done that only holds for some of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnxslim.passes.simplify import Simplify
from sample_models import from_text
from story import make_context

from onnxslim.model import canonicalize, restored, save_model
from onnxslim.rewrite.driver import fixpoint
from onnxslim.rewrite.reader import load_rules

f32 = np.float32


def test_declared_shapes_are_not_believed_and_come_back():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[1,M] y) {
        s = Shape (x)  n = Gather (s, zero)  one = Constant <value_ints = [1]> ()  m = Concat <axis = 0> (n, one, n)
        e = Expand (x, s2)  y = Reshape (e, m) }""".replace(
            "(float[N,3] x)", "(float[N,3] x, float[1] zero, int64[3] s2)"
        ),
        zero=np.array([0]),
    )
    canonicalize(model)
    Simplify().run(model, make_context(model))
    reshape = model.graph.outputs[0].producer()
    assert reshape.inputs[1].const_value is None  # [1, M] would have been wrong
    assert str(model.graph.outputs[0].shape) == "[1,M]"


def test_a_size_of_minus_one_is_unknown():
    model = from_text("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4] x, float[1,4] z) => (float[N,4] y, int64[2] n) {
        a = Add (x, z)  s = Shape (a)  n = Identity (s)  e = Expand (x, s)  y = Relu (e) }""")
    for value in model.graph.inputs:
        value.shape = ir.Shape([-1, 4])
    canonicalize(model)
    Simplify().run(model, make_context(model, verify=True))
    assert [node.op_type for node in model.graph] == ["Add", "Shape", "Expand", "Relu"]
    assert [str(value.shape) for value in restored(model).graph.inputs] == ["[-1,4]", "[-1,4]"]


WIDENING = {
    "expand": "a = Add (x, z)  s = Shape (a)  e = Expand (x, s)  y = Relu (e)",
    "where": "c = Constant <value = bool {1}> ()  w = Where (c, x, z)  y = Relu (w)",
    "reshape": "a = Add (x, z)  s = Shape (a)  b = Mul (a, a)  r = Reshape (b, s)  y = Relu (r)",
    "of a sum": "a = Add (x, z)  b = Sub (x, a)  s = Shape (b)  e = Expand (x, s)  y = Relu (e)",
    "matrices": "t = Transpose (z)  a = MatMul (x, t)  s = Shape (a)  u = Transpose (a)  y = Relu (u)",
    "in a branch": """a = Add (x, z)  y = If (c0) <
        then_branch = t () => (float[P,Q] p) { s = Shape (a)  e = Expand (x, s)  p = Relu (e) },
        else_branch = f () => (float[P,Q] q) { q = Neg (a) } >""",
}


@pytest.mark.parametrize("sizes", [(1, 3), (3, 1), (3, 3), (1, 1)])
@pytest.mark.parametrize("case", WIDENING)
def test_sizes_with_different_names_may_widen_each_other(case, sizes, tmp_path):
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, float[M,4] z, bool c0) => (float[P,Q] y) {{
        {WIDENING[case]} }}"""
    model = from_text(text)
    ir.save(model, tmp_path / "before.onnx")
    canonicalize(model)
    Simplify().run(model, make_context(model))
    save_model(model, tmp_path / "after.onnx")
    random = np.random.default_rng(0)
    feeds = {"x": random.normal(size=(sizes[0], 4)).astype(f32), "z": random.normal(size=(sizes[1], 4)).astype(f32)}
    sessions = session(tmp_path / "before.onnx"), session(tmp_path / "after.onnx")
    given = {value.name for value in sessions[0].get_inputs()}
    feeds = {name: array for name, array in {**feeds, "c0": np.array(True)}.items() if name in given}
    (expected,), (got,) = (each.run(None, feeds) for each in sessions)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6)  # a product of matrices is a Gemm now


def session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_a_scalar_has_no_softmax_which_onnx_runtime_would_refuse():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 12]> g (float x) => (float y)
        { a = Exp (x)  s = ReduceSum <axes = [-1]> (a)  y = Div (a, s) }"""
    )
    assert not fixpoint(model, load_rules("onnxslim.passes.simplify", 12)).counts
