"""Pivoted products as two plain factors, and back: the same function, whatever op they are made of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Array
from onnxslim.model.constants import stored_array
from onnxslim.model.edit import overwrite
from onnxslim.runtime.session import Session
from onnxslim.train.pivoted import with_plain_factors, write_back

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


def declared(names: Iterable[str]) -> str:
    """Return what declares weights of these names as inputs, behind others."""
    return "".join(f", float {name}" for name in names)


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
    for value in plain.graph.initializers.values():
        assert value.shape == stored_array(value).shape
    sizes = [np.linalg.norm(stored_array(plain.graph.initializers[name])) for name in ("f", "c")]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


@pytest.mark.parametrize("spread", [1, 300])
@pytest.mark.parametrize("name", CASES)
def test_what_two_plain_factors_learnt_is_what_the_pivoted_form_gives(name: str, spread: float) -> None:
    model, feeds = opened(name, spread)
    plain, products = with_plain_factors(model, CASES[name][2])
    random = np.random.default_rng(1)
    shapes = {key: value.shape for key, value in model.graph.initializers.items()}
    learnt = {}
    for key in CASES[name][2]:
        stored = stored_array(plain.graph.initializers[key])
        learnt[key] = stored + 0.3 * random.standard_normal(stored.shape).astype(np.float32) * stored.std()
        overwrite(plain.graph.initializers[key], learnt[key])
    before = Session.of(model).run(feeds)["y"]
    write_back(model, learnt, products)
    assert {key: value.shape for key, value in model.graph.initializers.items()} == shapes
    one, two = (Session.of(each).run(feeds)["y"] for each in (plain, model))
    assert np.abs(one - before).max() > 0.1 * np.abs(one).max()
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4 * np.abs(one).max())


STAYS = {
    "outputs the other way round": "h = MatMul (x, f) o = MatMul (h, c) y = Concat <axis=1> (o, h)",
    "an output twice": "h = MatMul (x, f) o = MatMul (h, c) y = Concat <axis=1> (h, o, h)",
    "one below the other": "h = MatMul (x, f) o = MatMul (h, d) y = Concat <axis=0> (h, o)",
    "not side by side": "h = MatMul (x, f) o = MatMul (h, c) u = Relu (h) v = Relu (o) y = Concat <axis=1> (u, v)",
    "scaled": "h = Gemm (x, f) o = Gemm <alpha=2.0> (h, c) y = Concat <axis=1> (h, o)",
    "one bias": "h = Gemm (x, f) o = Gemm (h, c, q) y = Concat <axis=1> (h, o)",
    "a bias that others read": "h = Gemm (x, f, p) o = Gemm (h, d, p) u = Add (o, p) y = Concat <axis=1> (h, o)",
    "a bias of both": "h = Gemm (x, f, p) o = Gemm (h, d, p) y = Concat <axis=1> (h, o)",
    "sums over places": "h = MatMul (x, f) o = MatMul (d, h) y = Concat <axis=-1> (h, o)",
    "sums over rows": "h = MatMul (x, f) o = Gemm <transA=1> (h, d) y = Concat <axis=-1> (h, o)",
    "read by others": "h = MatMul (x, f) o = MatMul (h, c) y = Concat <axis=1> (h, o) u = Relu (h)",
    "others read by others": "h = MatMul (x, f) o = MatMul (h, c) y = Concat <axis=1> (h, o) u = Relu (o)",
    "a first weight of others": "h = MatMul (x, f) o = MatMul (h, c) y = Concat <axis=1> (h, o) u = Relu (f)",
    "a second weight of others": "h = MatMul (x, f) o = MatMul (h, c) y = Concat <axis=1> (h, o) u = Relu (c)",
    "a first weight twice": "u = MatMul (x, f) h = MatMul (x, f) o = MatMul (h, c) y = Concat <axis=1> (h, o)",
    "two second weights": "g = MatMul (x, f) r = MatMul (g, c) u = Concat <axis=1> (g, r)"
    " h = MatMul (u, e) o = MatMul (h, c) y = Concat <axis=1> (h, o)",
    "one first weight and two second ones": "g = MatMul (x, f) r = MatMul (g, c) u = Concat <axis=1> (g, r)"
    " v = Relu (x) h = MatMul (v, f) o = MatMul (h, d) y = Concat <axis=1> (h, o)",
    "no other outputs": "h = MatMul (x, f) o = MatMul (h, n) y = Concat <axis=1> (h, o)",
    "a matrix for each sample": "t = Unsqueeze (x, axis) h = MatMul (t, s) o = MatMul (h, s)"
    " y = Concat <axis=2> (h, o)",
    "a second weight twice": "h = MatMul (x, f) o = MatMul (h, c) y = Concat <axis=1> (h, o) u = MatMul (x, c)",
}
"""Nodes of graphs of x [5, 5] and the weights of `STAYING`."""
STAYING = {"f": (5, 5), "c": (5, 11), "d": (5, 5), "e": (16, 5), "n": (5, 0), "s": (5, 5, 5), "p": (5,), "q": (11,)}
WINDOWS_STAY = {
    "steps": "h = Conv (x, f) o = Conv <strides=[2,2], pads=[1,1,1,1]> (h, c)",
    "a window": "h = Conv (x, f) o = Conv <pads=[1,1,1,1]> (h, w)",
    "groups": "h = Conv <group=2> (x, g) o = Conv (h, c)",
    "groups behind": "h = Conv (x, f) o = Conv <group=2> (h, g)",
    "transposed": "h = ConvTranspose (x, f) o = Conv (h, c)",
}
"""Nodes of graphs of x [1, 4, 3, 3], f, c [4, 4, 1, 1], w [4, 4, 3, 3], g [4, 2, 1, 1]."""


@pytest.mark.parametrize("name", STAYS)
def test_what_is_no_pivoted_product_stays(name: str) -> None:
    random = np.random.default_rng(0)
    weights = {key: random.standard_normal(shape).astype(np.float32) for key, shape in STAYING.items()}
    told = f"{HEADER}g (float[5,5] x{declared(STAYING)}, int64[1] axis) => (float y) {{ {STAYS[name]} }}"
    model = from_text(told, **weights, axis=np.array([1]))
    infer_shapes(model)
    assert with_plain_factors(model, STAYING) == (model, [])


@pytest.mark.parametrize("name", WINDOWS_STAY)
def test_what_mixes_places_or_some_channels_alone_stays(name: str) -> None:
    random = np.random.default_rng(0)
    shapes = {"f": (4, 4, 1, 1), "c": (4, 4, 1, 1), "w": (4, 4, 3, 3), "g": (4, 2, 1, 1)}
    weights = {key: random.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    nodes = f"{WINDOWS_STAY[name]} y = Concat <axis=1> (h, o)"
    model = from_text(f"{HEADER}g (float[1,4,3,3] x{declared(shapes)}) => (float[1,8,3,3] y) {{ {nodes} }}", **weights)
    infer_shapes(model)
    assert with_plain_factors(model, shapes) == (model, [])


@pytest.mark.parametrize("given", ["h", "o"])
def test_what_is_given_out_or_compared_stays(given: str) -> None:
    text, shapes, trained = CASES["MatMul"]
    weights = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    both = text.replace("=> (float[N,7,16] y)", f"=> (float[N,7,16] y, float[N,7,K] {given})")
    model = from_text(HEADER + both, **weights)
    infer_shapes(model)
    assert with_plain_factors(model, trained) == (model, [])
    model, _ = opened("MatMul")
    assert with_plain_factors(model, trained, compared=[given]) == (model, [])
    assert with_plain_factors(model, trained, compared=["z"])[1]


def test_what_is_put_side_by_side_in_a_branch_stays() -> None:
    text = """g (float[5,12] x, bool b, float f, float c, float zero) => (float[5,16] y) {
        h = MatMul (x, f) o = MatMul (h, c)
        y = If (b) <then_branch = t () => (float[5,16] u) { u = Concat <axis=1> (h, o) },
                    else_branch = e () => (float[5,16] v) { v = Identity (zero) }> }"""
    weights = {"f": (12, 5), "c": (5, 11), "zero": (5, 16)}
    model = from_text(HEADER + text, **{key: np.ones(shape, np.float32) for key, shape in weights.items()})
    infer_shapes(model)
    assert with_plain_factors(model, ("f", "c")) == (model, [])


def test_double_precision_stays() -> None:
    text, shapes, trained = CASES["Gemm"]
    random = np.random.default_rng(0)
    weights = {key: random.standard_normal(shape) for key, shape in shapes.items()}
    model = from_text(HEADER + text.replace("float[", "double[").replace(", float ", ", double "), **weights)
    infer_shapes(model)
    plain, (product,) = with_plain_factors(model, trained)
    arrays = {key: stored_array(plain.graph.initializers[key]) for key in trained}
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float64)}
    write_back(model, arrays, [product])
    for key, array in weights.items():
        np.testing.assert_allclose(stored_array(model.graph.initializers[key]), array, rtol=1e-9, atol=1e-9)


def test_a_product_that_no_output_depends_on_stays_as_it_was() -> None:
    model, _ = opened("Gemm")
    before = {key: stored_array(value).copy() for key, value in model.graph.initializers.items()}
    _, products = with_plain_factors(model, CASES["Gemm"][2])
    write_back(model, {}, products)
    for key, array in before.items():
        np.testing.assert_array_equal(stored_array(model.graph.initializers[key]), array)


def test_a_product_of_which_a_part_stays_as_it_is_stays_pivoted() -> None:
    model, _ = opened("Gemm")
    trained = CASES["Gemm"][2]
    assert with_plain_factors(model, trained[:-1]) == (model, [])
    assert with_plain_factors(model, trained, fixed=["c"]) == (model, [])
    assert with_plain_factors(model, trained, fixed=["another"])[1]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_product_of_a_lower_rank_is_opened_as_well(rank: int) -> None:
    model, feeds = opened("MatMul")
    random = np.random.default_rng(2)
    first = random.standard_normal((12, rank)) @ random.standard_normal((rank, 5))
    overwrite(model.graph.initializers["f"], first)
    plain, products = with_plain_factors(model, ("f", "c"))
    assert products
    one, two = (Session.of(each).run(feeds)["y"] for each in (model, plain))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5 * np.abs(one).max())
