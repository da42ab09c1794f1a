"""Pivoted products as two plain factors, and back: the same function, whatever op they are made of."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Array
from onnxslim.model.constants import stored_array
from onnxslim.model.edit import overwrite
from onnxslim.runtime.session import Session
from onnxslim.train.pivoted import with_plain_factors

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]], tuple[str, ...]]] = {
    "MatMul": (
        """g (float[N,7,12] x, float f, float c, float b) => (float[N,7,16] y) {
            h = MatMul (x, f) o = MatMul (h, c) z = Concat <axis=-1> (h, o) y = Add (z, b) }""",
        {"f": (12, 5), "c": (5, 11), "b": (16,)},
        ("f", "c"),
    ),
    "Gemm": (
        """g (float[N,12] x, float f, float c, float p, float q) => (float[N,16] y) {
            h = Gemm <transB=1> (x, f, p) o = Gemm <transB=1> (h, c, q) y = Concat <axis=1> (h, o) }""",
        {"f": (5, 12), "c": (11, 5), "p": (5,), "q": (11,)},
        ("f", "c", "p", "q"),
    ),
    "Conv": (
        """g (float[N,4,6,6] x, float f, float c, float p, float q) => (float[N,M,U,V] y) {
            h = Conv <pads=[1,1,1,1], strides=[2,2]> (x, f, p) o = Conv (h, c, q) y = Concat <axis=1> (h, o) }""",
        {"f": (5, 4, 3, 3), "c": (11, 5, 1, 1), "p": (5,), "q": (11,)},
        ("f", "c", "p", "q"),
    ),
    "left factor": (
        """g (float[N,12,7] x, float f, float c) => (float[N,16,7] y) {
            h = MatMul (f, x) o = MatMul (c, h) y = Concat <axis=1> (h, o) }""",
        {"f": (5, 12), "c": (11, 5)},
        ("f", "c"),
    ),
    "shared": (
        """g (float[N,7,12] x, float f, float c) => (float[N,7,16] y) {
            g = MatMul (x, f) p = MatMul (g, c) u = Concat <axis=2> (g, p) v = Relu (x)
            h = MatMul (v, f) q = MatMul (h, c) w = Concat <axis=2> (h, q) y = Mul (u, w) }""",
        {"f": (12, 5), "c": (5, 11)},
        ("f", "c"),
    ),
}
"""Text of the graph, shapes of the weights, and those that are trained."""


def opened(name: str, spread: float = 1.0) -> tuple[ir.Model, dict[str, Array]]:
    text, shapes, _ = CASES[name]
    random = np.random.default_rng(0)
    weights = {key: random.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    weights["c"] *= np.float32(spread)
    model = from_text(HEADER + text, **weights)
    infer_shapes(model)
    shape = [3 if isinstance(size, ir.SymbolicDim) else size for size in model.graph.inputs[0].shape or ()]
    return model, {"x": random.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("name", CASES)
def test_two_plain_factors_make_the_same_and_are_equally_large(name: str) -> None:
    model, feeds = opened(name, spread=300)
    plain, products = with_plain_factors(model, CASES[name][2])
    assert [product.first.name for product in products] == ["f"]
    assert "Concat" not in [node.op_type for node in plain.graph]
    assert "Concat" in [node.op_type for node in model.graph]
    assert "h" not in {value.name for node in plain.graph for value in node.outputs}, "it is another value"
    one, two = (Session.of(each).run(feeds)["y"] for each in (model, plain))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())
    sizes = [np.linalg.norm(stored_array(plain.graph.initializers[name])) for name in ("f", "c")]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_what_two_plain_factors_learnt_is_what_the_pivoted_form_gives(name: str) -> None:
    model, feeds = opened(name)
    plain, (product,) = with_plain_factors(model, CASES[name][2])
    random = np.random.default_rng(1)
    learnt = {}
    for key in CASES[name][2]:
        stored = stored_array(plain.graph.initializers[key])
        learnt[key] = stored + 0.3 * random.standard_normal(stored.shape).astype(np.float32)
        overwrite(plain.graph.initializers[key], learnt[key])
    before = Session.of(model).run(feeds)["y"]
    for key, array in product.closed(learnt).items():
        assert array.shape == stored_array(model.graph.initializers[key]).shape
        overwrite(model.graph.initializers[key], array)
    one, two = (Session.of(each).run(feeds)["y"] for each in (plain, model))
    assert np.abs(one - before).max() > 0.1 * np.abs(one).max()
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize(
    ("replaced", "by"),
    [
        ("Concat <axis=1> (h, o)", "Concat <axis=1> (o, h)"),
        ("Concat <axis=1> (h, o)", "Concat <axis=1> (h, o, h)"),
        ("Concat <axis=1> (h, o)", "Concat <axis=0> (h, o)"),
        ("y = Concat", "u = Relu (h) v = Relu (o) y = Concat <axis=1> (u, v) z = Concat"),
        ("Gemm <transB=1> (h, c, q)", "Gemm <transB=1, alpha=2.0> (h, c, q)"),
        ("Gemm <transB=1> (h, c, q)", "Gemm <transB=1> (h, c)"),
    ],
)
def test_what_is_no_pivoted_product_stays(replaced: str, by: str) -> None:
    text, shapes, trained = CASES["Gemm"]
    shapes = {**shapes, "c": (5, 5), "q": (5,)} if "axis=0" in by else shapes
    assert replaced in text
    weights = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    model = from_text(HEADER + text.replace(replaced, by).replace("float[N,16] y", "float[N,M] y"), **weights)
    infer_shapes(model)
    assert with_plain_factors(model, trained) == (model, [])


def test_a_product_of_which_a_part_stays_as_it_is_stays_pivoted() -> None:
    model, _ = opened("Gemm")
    trained = CASES["Gemm"][2]
    assert with_plain_factors(model, trained[:-1]) == (model, [])
    assert with_plain_factors(model, trained, fixed=["c"]) == (model, [])
    assert with_plain_factors(model, trained, fixed=["another"])[1]


def test_a_product_of_zeros_is_opened_as_well() -> None:
    model, feeds = opened("MatMul")
    overwrite(model.graph.initializers["f"], np.zeros((12, 5), np.float32))
    plain, products = with_plain_factors(model, ("f", "c"))
    assert products
    assert np.isfinite(Session.of(plain).run(feeds)["y"]).all()
