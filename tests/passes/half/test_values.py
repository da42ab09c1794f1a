"""What the values of a model decide: nodes whose numbers half precision cannot hold stay in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from half_models import CUDA, FLOAT, HALF, X, convert, drawn, dtypes, left, net, run, run_rounded, sqnr
from onnxslim.passes.half import Inner
from onnxslim.passes.half.formats import HalfType
from sample_models import from_text

from onnxslim.observe.probe import truncated


def test_activations_of_100_000_stay_finite():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,4] y) {
        h = MatMul (x, w) big = Mul (h, c) s = Softplus (big) d = Div (s, c) y = MatMul (d, v) }"""
    weights = {"w": drawn(8, 16), "c": np.float32([5e4]), "v": drawn(16, 4)}
    model = from_text(text, **weights)
    expected = run(model, {"x": X})["y"]
    assert np.abs(run(truncated(model, ["big"]), {"x": X})["big"]).max() > 1e5
    naive = from_text(text, **weights)
    nodes = [value for node in naive.graph for value in node.outputs]
    for value in (*naive.graph.inputs, *naive.graph.initializers.values(), *nodes):
        if value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
        value.type = ir.TensorType(HALF)
    assert not np.isfinite(run_rounded(naive, {"x": X})["y"]).all(), "the model overflows where nobody takes care"
    change = convert(model, {"x": X}, activations=Inner.HALF)
    assert left(change)["big"] == "overflow"
    assert "overflow" in left(change)["s"]
    assert dtypes(model)["h"] is HALF
    found = run_rounded(model, {"x": X})["y"]
    assert np.isfinite(found).all()
    assert sqnr(expected, found) > 40


LAYER_NORM = """<ir_version: 9, opset_import: ["" : 17]>
g (float[N,16] x) => (float[N,4] y) {
    h = MatMul (x, w)
    m = ReduceMean <axes = [-1]> (h)
    d = Sub (h, m)
    q = Mul (d, d)
    s = ReduceMean <axes = [-1]> (q)
    e = Add (s, eps)
    t = Sqrt (e)
    n = Div (d, t)
    y = MatMul (n, v)
}"""


def layer_norm(scale, eps):
    return from_text(
        LAYER_NORM, w=np.eye(16, dtype=np.float32) * np.float32(scale), eps=np.float32([eps]), v=drawn(16, 4)
    )


def test_mean_squares_that_would_overflow_stay():
    model = layer_norm(300, 1e-5)
    x = drawn(4, 16)
    expected = run(model, {"x": x})["y"]
    change = convert(model, {"x": x}, activations=Inner.HALF)
    assert left(change) == dict.fromkeys(("q", "s", "e", "t"), "overflow")
    assert dtypes(model)["d"] is HALF
    assert sqnr(expected, run_rounded(model, {"x": x})["y"]) > 50


def test_sums_inside_a_mean_are_held_to_the_range_as_well():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,4,64,64] x) => (float[N,2] y) { p = GlobalAveragePool (x) f = Flatten (p) y = MatMul (f, v) }"""
    for level, code in ((1.0, None), (40.0, "sum-overflow")):
        model = from_text(text, v=drawn(4, 2))
        change = convert(model, {"x": np.full((1, 4, 64, 64), level, np.float32)}, activations=Inner.HALF)
        assert left(change).get("p") == code


@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_an_epsilon_still_keeps_a_divisor_from_zero(eps):
    model = layer_norm(1, eps)
    convert(model, {"x": drawn(4, 16)}, activations=Inner.HALF)
    flat = np.ones((1, 16), np.float32)
    np.testing.assert_array_equal(run_rounded(model, {"x": flat})["y"], np.zeros((1, 4)))


def test_small_numbers_that_are_divided_by_stay():
    model = layer_norm(1e-2, 1e-7)
    x = np.vstack([drawn(3, 16), np.full((1, 16), 1e-3, np.float32) * np.arange(16, dtype=np.float32)])
    expected = run(model, {"x": x})["y"]
    change = convert(model, {"x": x}, activations=Inner.HALF)
    assert set(left(change).values()) <= {"small-divisor", "underflow", "difference"}
    assert left(change)["t"] == "small-divisor"
    assert sqnr(expected, run_rounded(model, {"x": x})["y"]) > 50


def test_small_differences_of_large_numbers_stay():
    """Variance as the mean square less the squared mean, as some exporters write it."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,16] x) => (float[N,4] y) {
        h = MatMul (x, w) q = Mul (h, h) s = ReduceMean <axes = [-1]> (q) m = ReduceMean <axes = [-1]> (h)
        b = Mul (m, m) var = Sub (s, b) e = Add (var, eps) t = Sqrt (e) c = Sub (h, m) n = Div (c, t)
        y = MatMul (n, v) }"""
    model = from_text(text, w=np.eye(16, dtype=np.float32), eps=np.float32([1e-6]), v=drawn(16, 4))
    x = drawn(4, 16) + 100
    expected = run(model, {"x": x})["y"]
    change = convert(model, {"x": x}, activations=Inner.HALF)
    assert {left(change)[name] for name in ("q", "s", "b", "var")} <= {"difference", "sum-overflow", "overflow"}
    assert left(change)["var"] == "difference"
    found = run_rounded(model, {"x": x})["y"]
    assert sqnr(expected, found) > 30


def test_tiny_values_stay():
    model = net(w=drawn(8, 16, scale=1e-7))
    change = convert(model, {"x": X}, activations=Inner.HALF)
    assert left(change)["h"] == "underflow"
    assert left(change)["w"] == "underflow"


ATTENTION = """<ir_version: 9, opset_import: ["" : 17]>
g (float[N,T,8] x, int64[N,T] attention_mask) => (float[N,T,8] y) {
    k = Transpose <perm = [0, 2, 1]> (x)
    s = MatMul (x, k)
    %s
    p = Softmax <axis = -1> (masked)
    a = MatMul (p, x)
    y = MatMul (a, w)
}"""
MASKS = {
    "added": """one = Constant <value_float = 1.0> () axes = Constant <value_ints = [1]> ()
        u = Unsqueeze (attention_mask, axes) f = Cast <to = 1> (u) i = Sub (one, f) bias = Mul (i, large)
        masked = Add (s, bias)""",
    "chosen": """zero = Constant <value_int = 0> () axes = Constant <value_ints = [1]> ()
        u = Unsqueeze (attention_mask, axes) b = Equal (u, zero) masked = Where (b, large, s)""",
}


@pytest.mark.parametrize("large", [-1e4, -1e9, np.finfo(np.float32).min, -np.inf])
@pytest.mark.parametrize("kind", sorted(MASKS))
@pytest.mark.parametrize("type", list(HalfType))
def test_masks_in_front_of_a_softmax_are_cut_and_the_rest_runs_in_half(kind, large, type):
    if kind == "added" and large == -np.inf:
        pytest.skip("0 times infinity is NaN in float32 as well")
    model = from_text(ATTENTION % MASKS[kind], large=np.float32([large]), w=drawn(8, 8))
    feeds = {"x": drawn(2, 5, 8), "attention_mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])}
    expected = run(model, feeds)["y"]
    change = convert(model, feeds, CUDA, type=type)
    stays = {"k", "s", "a", "p", "masked"} & set(left(change))
    assert not stays, left(change)
    found = run_rounded(model, feeds)["y"]
    assert sqnr(expected, found) > (50 if type is HalfType.FLOAT16 else 30)


def test_large_numbers_that_reach_an_output_are_no_masks():
    model = from_text(
        (ATTENTION % MASKS["added"]).replace("(float[N,T,8] y)", "(float[N,T,8] y, float[N,T,T] masked)"),
        large=np.float32([-1e9]),
        w=drawn(8, 8),
    )
    feeds = {"x": drawn(2, 5, 8), "attention_mask": np.array([[1, 1, 1, 0, 0]] * 2)}
    change = convert(model, feeds, activations=Inner.HALF)
    assert left(change)["masked"] == "overflow"


def test_limits_beyond_the_range_never_act():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,4] y) { c = Clip (x, lo, hi) y = MatMul (c, v) }"""
    model = from_text(text, lo=np.float32(-3.4e38), hi=np.float32(1e6), v=drawn(8, 4))
    change = convert(model, {"x": X}, activations=Inner.HALF)
    assert not left(change)
    assert [model.graph.initializers[name].const_value.numpy() for name in ("lo", "hi")] == [-65504, 65504]


def test_sizes_that_are_computed_keep_all_digits():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,3,8,8] x) => (float[N,2,A,B] y) {
        n = Shape <start = 2> (x) f = Cast <to = 1> (n) g = Mul (f, factor) h = Floor (g)
        both = Concat <axis = 0> (ones, scales) ones2 = Identity (ones)
        r = Resize <mode = "nearest"> (x, , both) y = Conv (r, w) }"""
    model = from_text(
        text, factor=np.float32([1.3]), scales=np.float32([2, 2]), ones=np.float32([1, 1]), w=drawn(2, 3, 1, 1)
    )
    change = convert(model, {"x": drawn(1, 3, 8, 8)}, activations=Inner.HALF)
    resize = next(node for node in model.graph if node.op_type == "Resize")
    assert resize.inputs[0].dtype is HALF
    assert resize.inputs[2].dtype is FLOAT
    assert left(change)["both"] == "indices"
    assert run(model, {"x": drawn(1, 3, 8, 8)})["y"].shape == (1, 2, 16, 16)


def test_integers_made_of_floats_keep_all_digits():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x, float[N,1] place) => (float[N,4] y) {
        f = Mul (place, c) i = Cast <to = 7> (f) t = Gather (table, i) q = Squeeze (t, one) z = Add (q, x)
        y = MatMul (z, v) }"""
    model = from_text(text, c=np.float32([0.9]), table=drawn(3000, 8), one=np.array([1]), v=drawn(8, 4))
    place = np.float32([[1500], [2333], [2999], [7]])
    expected = run(model, {"x": X, "place": place})["y"]
    change = convert(model, {"x": X, "place": place}, activations=Inner.HALF)
    assert {left(change)[name] for name in ("f", "i")} == {"indices"}
    assert sqnr(expected, run_rounded(model, {"x": X, "place": place})["y"]) > 50


def test_angles_and_counts_stay():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x, int64[N,1] position) => (float[N,4] y) {
        p = Cast <to = 1> (position) a = Mul (p, freq) s = Sin (a) z = Mul (s, x) y = MatMul (z, v) }"""
    model = from_text(text, freq=np.logspace(0, -3, 8).astype(np.float32), v=drawn(8, 4))
    feeds = {"x": X, "position": np.array([[4001], [13], [2049], [999]])}
    expected = run(model, feeds)["y"]
    change = convert(model, feeds, activations=Inner.HALF)
    assert left(change) == {"p": "count", "a": "count", "s": "angle"}
    assert sqnr(expected, run_rounded(model, feeds)["y"]) > 50
