"""Gemms in the plain form compute what they computed, whatever they did beside x W + b."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_models import from_text

from onnxslim.analysis.gemm import fold_scales, spread
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

CPU = Target("cpu", "a processor", "avx2", 1)
ROWS, INNER, COLUMNS = 5, 3, 4
SUMMANDS = {
    "none": None,
    "scalar": (),
    "one": (1,),
    "row": (COLUMNS,),
    "row of two axes": (1, COLUMNS),
    "column": (ROWS, 1),
    "matrix": (ROWS, COLUMNS),
}


def gemm(attributes, summand, *, stored=(True, True), ends="y"):
    """Return a model of one Gemm and its feeds; `stored`: whether B and C are weights."""
    generator = np.random.default_rng(0)
    sizes = {
        "a": (INNER, ROWS) if attributes.get("transA") else (ROWS, INNER),
        "b": (COLUMNS, INNER) if attributes.get("transB") else (INNER, COLUMNS),
        **({} if summand is None else {"c": summand}),
    }
    arrays = {name: generator.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}
    inputs = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in sizes.items())
    told = ", ".join(f"{name} = {value}" for name, value in attributes.items())
    text = f"""<ir_version: 9, opset_import: ["" : 17]> g ({inputs}) => (float[{ROWS},{COLUMNS}] {ends}) {{
        y = Gemm {f"<{told}>" if told else ""} ({", ".join(sizes)}) {"z = Relu (y)" if ends == "z" else ""} }}"""
    weights = {name for name, is_stored in zip("bc", stored, strict=True) if is_stored and name in arrays}
    model = from_text(text, **{name: arrays[name] for name in weights})
    infer_shapes(model)
    return model, {name: array for name, array in arrays.items() if name not in weights}


attributes = st.fixed_dictionaries(
    {},
    optional={
        "alpha": st.sampled_from([0.5, 2.0, -3.0]),
        "beta": st.sampled_from([0.25, 0.0, 2.0]),
        "transA": st.just(1),
        "transB": st.just(1),
    },
)


@given(
    attributes, st.sampled_from(sorted(SUMMANDS)), st.tuples(st.booleans(), st.booleans()), st.sampled_from(["y", "z"])
)
@settings(max_examples=80, deadline=None)
def test_a_plain_gemm_computes_the_same(attributes, summand, stored, ends):
    model, feeds = gemm(attributes, SUMMANDS[summand], stored=stored, ends=ends)
    wanted = Session.of(model, CPU).run(feeds)[ends]
    fold_scales(model)
    spread(model, lambda node: True)
    ir.to_proto(model)
    np.testing.assert_allclose(Session.of(model, CPU).run(feeds)[ends], wanted, rtol=1e-5, atol=1e-5)
    for node in model.graph:
        if node.op_type == "Gemm":
            assert {"alpha", "beta", "transA"}.isdisjoint(node.attributes)
            assert stored[0], "a product of two computed matrices is a MatMul"
            assert len(node.inputs) < 3 or node.inputs[2].const_value.shape.numpy() == (COLUMNS,)
    assert not spread(model, lambda node: True), "what is plain stays"


def test_scales_are_folded_into_what_is_stored():
    model, _ = gemm({"alpha": 2.0, "beta": 3.0}, (COLUMNS,))
    before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    assert fold_scales(model) == 2
    (node,) = model.graph
    assert not node.attributes
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), 2 * before["b"])
    np.testing.assert_array_equal(node.inputs[2].const_value.numpy(), 3 * before["c"])


@pytest.mark.parametrize(("alphas", "folded"), [((2.0, 2.0), 2), ((2.0, 4.0), 0), ((2.0, 1.0), 0)])
def test_a_factor_that_is_shared_is_stored_once(alphas, folded):
    model = from_text(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N,2] x, float[2,2] w) => (float[N,2] y, float[N,2] z) {{
        y = Gemm <alpha = {alphas[0]}> (x, w) z = Gemm <alpha = {alphas[1]}> (x, w) }}""",
        w=np.eye(2, dtype=np.float32),
    )
    assert fold_scales(model) == folded
    assert len(model.graph.initializers) == 1


def test_what_would_overflow_stays():
    model = from_text(
        """<ir_version: 9, opset_import: ["" : 17]> g (float16[N,2] x, float16[2,2] w) => (float16[N,2] y) {
        y = Gemm <alpha = 4.0> (x, w) }""",
        w=np.full((2, 2), 30000, np.float16),
    )
    assert fold_scales(model) == 0
    assert model.graph[0].attributes.get_float("alpha") == 4.0
