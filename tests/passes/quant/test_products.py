"""Products of matrices run in int8 in whatever form they come."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant
from sample_models import from_text
from story import HERE, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)
SIZES = {"x": ("N", 32), "w": (32, 16), "c": (16,), "one": (), "row": (1, 16), "r": ("N", 16), "column": (8, 1)}


def draw(*shape):
    return GENERATOR.normal(size=[8 if size == "N" else size for size in shape]).astype(np.float32)


def products_in_int8(model, feeds, **options):
    """Quantize, and return how many products read what was dequantized, of how many."""
    infer_shapes(model)
    wanted = Session.of(model, HERE).run(feeds)
    context = make_context(model, feeds, target=HERE)
    Quant(**options).run(model, context)
    found = Session.of(model, HERE).run(feeds)
    for name, array in wanted.items():
        assert 10 * np.log10(np.square(array).sum() / np.square(array - found[name]).sum()) > 25
    products = [node for node in model.graph if node.op_type in ("Gemm", "MatMul")]
    inside = [p for p in products if all(v.producer().op_type == "DequantizeLinear" for v in p.inputs if v is not None)]
    return len(inside), len(products)


@pytest.mark.parametrize(
    ("attributes", "inputs"),
    [
        *itertools.product(("alpha = 2.0", "beta = 0.5", "alpha = 0.5, beta = 3.0"), ("x, w, c", "x, w")),
        *(("beta = 0.5", f"x, w, {summand}") for summand in ("one", "row", "r", "column")),
        ("transA = 1", "x, w, c"),
        ("transB = 1, alpha = 2.0", "x, w, r"),
        ("transB = 1", "x, w"),
    ],
)
def test_a_gemm_runs_in_int8_whatever_its_attributes(attributes, inputs):
    sizes = dict(SIZES)
    if "transA" in attributes:
        sizes["x"] = (32, "N")
    if "transB" in attributes:
        sizes["w"] = (16, 32)
    names = inputs.split(", ")
    text = ", ".join(f"float[{','.join(map(str, sizes[name]))}] {name}" for name in names)
    arrays = {name: draw(*sizes[name]) for name in names}
    stored = {name: array for name, array in arrays.items() if name not in ("x", "r")}
    model = from_text(
        f"""<ir_version: 9, opset_import: ["" : 17]> g ({text}) => (float[N,16] y) {{
        y = Gemm <{attributes}> ({inputs}) }}""",
        **stored,
    )
    feeds = {name: array for name, array in arrays.items() if name not in stored}
    if "transA" in attributes:
        model.graph.inputs[0].shape = ir.Shape((32, 8))
    assert products_in_int8(model, feeds) == (1, 1)


def test_products_of_two_computed_matrices_run_in_int8_whatever_scales_them():
    model = from_text(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[6,32] x, float[32,16] w, float[32,16] v)
        => (float[6,6] y) { p = MatMul (x, w) q = MatMul (x, v) y = Gemm <alpha = 0.25, transB = 1> (p, q) }""",
        w=draw(32, 16),
        v=draw(32, 16),
    )
    assert products_in_int8(model, {"x": draw(6, 32)}) == (3, 3)


def test_what_is_excluded_keeps_its_form():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,32] x, float[32,16] w, float[N,16] r) => (float[N,16] y) {
        p = Gemm (x, w, r) y = Relu (p) }"""
    model = from_text(text, w=draw(32, 16))
    feeds = {"x": draw(8, 32), "r": draw(8, 16)}
    infer_shapes(model)
    samples = open_samples(feeds, Session.of(model, HERE).inputs)
    change = Quant(exclude=("Gemm",)).run(model, make_context(model, samples, target=HERE))
    assert not change.modified
    assert [node.op_type for node in model.graph] == ["Gemm", "Relu"]
