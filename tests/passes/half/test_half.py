"""The pass as a whole: what it writes, what it leaves in float32 and why, and that the result holds."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxslim.passes.half import Half, Inner, Interface
from onnxslim.passes.half.formats import HalfType
from onnxslim.passes.half.simulation import rounded
from sample_models import from_text
from story import make_context, nodes_of
from zoo import MODELS

import onnxslim
from onnxslim.errors import BadOptionValue
from onnxslim.model import canonicalize, open_model, save_model, weight_bytes
from onnxslim.observe.probe import truncated
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Goal, NoteKind
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

CPU = Target("cpu", "a processor", "avx2", 1)
CUDA = "cuda"
HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT

NET = """<ir_version: 9, opset_import: ["" : 17]>
g (float[N,8] x) => (float[N,4] y) {
    h = MatMul (x, w)
    r = Relu (h)
    y = MatMul (r, v)
}"""


def drawn(*shape, scale=1.0):
    return (np.random.default_rng(len(shape)).normal(size=shape) * scale).astype(np.float32)


def net(**weights):
    return from_text(NET, **{"w": drawn(8, 16), "v": drawn(16, 4), **weights})


def convert(model, feeds, target="auto", **options):
    """Runs the pass on a model in canonical form."""
    canonicalize(model)
    return Half(target=target, **options).run(model, make_context(model, dict(feeds), target=CPU))


def run(model, feeds):
    return Session.of(model, CPU).run(dict(feeds))


def run_rounded(model, feeds):
    """Runs a model in half precision as a device does that rounds every value."""
    return run(rounded(model), feeds)


def left(change):
    return {note.subject: note.code for note in change.notes if note.kind is NoteKind.LEFT_ALONE}


def dtypes(model):
    return {value.name: value.dtype for node in model.graph for value in node.outputs}


def sqnr(reference, found):
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - found.astype(np.float32)).sum())


X = drawn(4, 8)


def test_it_is_found_by_name():
    assert find_pass("half") is Half
    assert Half.needs == ("simplify",)


def test_on_the_cpu_weights_are_stored_and_inner_values_stay():
    model = net()
    change = convert(model, {"x": X})
    assert nodes_of(model.graph) == [
        "v_float32 = Cast <to = 1> (v[16, 4])",
        "w_float32 = Cast <to = 1> (w[8, 16])",
        "h = MatMul (x, w_float32)",
        "r = Relu (h)",
        "y = MatMul (r, v_float32)",
    ]
    assert weight_bytes(model) == 2 * (8 * 16 + 16 * 4)
    assert [(note.subject, note.action, note.code) for note in change.notes] == [
        ("weights", "float16: 768 B -> 384 B", ""),
        ("inner values", "float32", "target-in-float"),
    ]
    assert [(layer.before, layer.after) for layer in change.layers] == [(32, 16), (32, 16)]


def test_where_the_target_has_kernels_inner_values_are_half_and_inputs_and_outputs_stay():
    model = net()
    convert(model, {"x": X}, CUDA)
    assert nodes_of(model.graph) == [
        "x_float16 = Cast <to = 10> (x)",
        "h = MatMul (x_float16, w[8, 16])",
        "r = Relu (h)",
        "y_inner = MatMul (r, v[16, 4])",
        "y = Cast <to = 1> (y_inner)",
    ]
    assert dtypes(model) == {"x_float16": HALF, "h": HALF, "r": HALF, "y_inner": HALF, "y": FLOAT}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


@pytest.mark.parametrize("options", [{}, {"activations": Inner.HALF}, {"activations": Inner.FLOAT}])
@pytest.mark.parametrize("kind", list(HalfType))
def test_the_result_runs_and_is_close(options, kind):
    model = net()
    expected = run(model, {"x": X})["y"]
    convert(model, {"x": X}, type=kind, **options)
    assert weight_bytes(model) * 2 == 4 * (8 * 16 + 16 * 4)
    assert sqnr(expected, run(model, {"x": X})["y"]) > (60 if kind is HalfType.FLOAT16 else 40)


def test_inputs_and_outputs_become_half_where_that_is_asked_for():
    for activations in (Inner.HALF, Inner.FLOAT):
        model = net()
        expected = run(model, {"x": X})["y"]
        convert(model, {"x": X}, io=Interface.HALF, activations=activations)
        session = Session.of(model, CPU)
        assert [spec.dtype for spec in (*session.inputs, *session.outputs)] == [np.float16, np.float16]
        assert session.outputs[0].name == "y"
        assert sqnr(expected, session.run({"x": X})["y"]) > 55, "float32 samples do for it"


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


def test_results_typed_by_an_attribute_get_another_one():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y) {
        h = MatMul (x, w) n = Shape <start = 1> (x) c = ConstantOfShape <value = float[1] {2.5}> (n) z = Mul (h, c)
        e = EyeLike <dtype = 1> (w) y = MatMul (z, e) }"""
    model = from_text(text, w=drawn(8, 8))
    feeds = {"x": X}
    expected = run(model, feeds)["y"]
    convert(model, feeds, activations=Inner.HALF)
    found = dtypes(model)
    assert (found["c"], found["e"]) == (HALF, HALF)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert sqnr(expected, run_rounded(model, feeds)["y"]) > 50


def test_random_numbers_can_be_half_and_are_not_compared():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,4] y) {
        r = RandomNormalLike (x) n = RandomNormal <shape = [1, 8]> () s = Add (r, n) z = Add (x, s)
        y = MatMul (z, v) }"""
    for target, expected in ((CUDA, HALF), ("cpu", FLOAT)):
        model = from_text(text, v=drawn(8, 4))
        change = convert(model, {"x": X}, target, activations=Inner.HALF)
        assert (dtypes(model)["r"], dtypes(model)["n"]) == (HALF, expected)
        assert left(change) == ({} if expected is HALF else {"n": "no-kernel"})
    assert run(model, {"x": X})["y"].dtype == np.float32, "the CPU's provider adds no cast to a node without inputs"


def test_rows_of_an_embedding_are_cast_and_not_all_of_it():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (int64[N] i) => (float[N,4] y) { t = Gather (table, i) y = MatMul (t, v) }"""
    model = from_text(text, table=drawn(50, 16), v=drawn(16, 4))
    convert(model, {"i": np.array([1, 2, 49])})
    assert nodes_of(model.graph)[1:3] == ["t = Gather (table[50, 16], i)", "t_float32 = Cast <to = 1> (t)"]


def numbers(*shape):
    return ", ".join(f"{number:.3f}" for number in drawn(*shape).ravel())


BRANCHES = f"""<ir_version: 9, opset_import: ["" : 17]>
g (float[N,8] x) => (float[N,8] y) {{
    h = MatMul (x, w) s = ReduceSum <keepdims = 0> (x) zero = Constant <value_float = 0.0> () c = Greater (s, zero)
    b = If (c) <
        then_branch = t () => (float[N,8] p) {{
            inner = Constant <value = float[8,8] {{{numbers(8, 8)}}}> () p = MatMul (h, inner)
        }},
        else_branch = e () => (float[N,8] q) {{ q = Relu (h) }}>
    y = MatMul (b, v) }}"""


def test_branches_stay_and_their_weights_are_stored():
    model = from_text(BRANCHES, w=drawn(8, 8), v=drawn(8, 8))
    feeds = [{"x": X}, {"x": -X}]
    expected = [run(model, feed)["y"] for feed in feeds]
    change = convert(model, {"x": X}, activations=Inner.HALF)
    assert left(change)["b"] == "nested"
    branch = next(node for node in model.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["Cast", "MatMul"]
    assert branch.initializers["inner"].dtype is HALF
    assert dtypes(model)["h"] is HALF, "the branches read a Cast of it"
    for feed, reference in zip(feeds, expected, strict=True):
        assert sqnr(reference, run(model, feed)["y"]) > 50
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_calls_of_functions_that_are_not_inlined_stay():
    text = """<ir_version: 9, opset_import: ["" : 17, "local" : 1]>
    g (float[N,8] x) => (float[N,8] y) { h = MatMul (x, w) f = local.Twice (h) y = MatMul (f, v) }
    <opset_import: ["" : 17], domain: "local"> Twice (a) => (b) { b = Add (a, a) }"""
    model = from_text(text, w=drawn(8, 8), v=drawn(8, 8))
    canonicalize(model, inline=False)
    change = Half(activations=Inner.HALF).run(model, make_context(model, {"x": X}, target=CPU))
    assert left(change)["f"] == "not-known"
    assert run(model, {"x": X})["y"].dtype == np.float32


def test_a_weight_with_readers_of_both_kinds_is_there_once_if_it_is_large():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y, float[8,8] z) { y = MatMul (x, w) z = Mod <fmod = 1> (w, b) }"""
    model = from_text(text, w=drawn(8, 8), b=drawn(8, scale=5))
    convert(model, {"x": X}, activations=Inner.HALF)
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {"w": HALF, "b": FLOAT}


def test_a_small_constant_with_readers_of_both_kinds_is_there_twice():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y, float[N,8] z) { h = MatMul (x, w) y = Mul (h, c) z = Mod <fmod = 1> (h, c) }"""
    model = from_text(text, w=drawn(8, 8), c=np.float32([3]))
    convert(model, {"x": X}, activations=Inner.HALF)
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {
        "w": HALF,
        "c": FLOAT,
        "c_float16": HALF,
    }


def test_regions_without_products_between_float32_nodes_stay():
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,4] y) { a = Mul (x, c) b = Relu (a) d = Mod <fmod = 1> (b, c) y = MatMul (d, v) }"""
    model = from_text(text, c=np.float32([3]), v=drawn(8, 4))
    change = convert(model, {"x": X}, activations=Inner.HALF)
    assert left(change) == {"a": "too-little", "b": "too-little", "d": "digits"}
    alone = from_text(text.replace("MatMul (d, v)", "Sub (d, v)"), c=np.float32([3]), v=drawn(1, 8))
    assert left(convert(alone, {"x": X}, activations=Inner.HALF)) == {"d": "digits"}, "nothing better can be had"


def test_attributes_that_keep_a_node_in_float32():
    text = """<ir_version: 9, opset_import: ["" : 18]>
    g (float[N,8] x) => (float[N,8] y) {
        h = MatMul (x, w) a = ScatterND <reduction = "%s"> (h, i, u) y = MatMul (a, w) }"""
    for reduction, code in (("none", None), ("add", "digits")):
        weights = {"w": drawn(8, 8), "i": np.zeros((1, 2), np.int64), "u": drawn(1)}
        model = from_text(text % reduction, **weights)
        assert left(convert(model, {"x": X}, activations=Inner.HALF)).get("a") == code
        assert run(model, {"x": X})["y"].shape == (4, 8)


def test_a_model_without_weights_runs_in_half_where_that_is_asked_for():
    text = '<ir_version: 9, opset_import: ["" : 17]> g (float[N,8] x) => (float[N,8] y) { h = Relu (x) y = Neg (h) }'
    model = ir.from_onnx_text(text)
    assert convert(model, {"x": X}, activations=Inner.HALF).modified
    assert dtypes(model)["h"] is HALF
    model = ir.from_onnx_text(text)
    assert left(convert(model, {"x": X})) == {"model": "nothing-large"}


def test_selection():
    model = net()
    change = convert(model, {"x": X}, activations=Inner.HALF, exclude=("v",))
    assert left(change) == {"y": "excluded", "v": "excluded"}
    assert dtypes(model)["r"] is HALF
    assert model.graph.initializers["v"].dtype is FLOAT
    model = net()
    change = convert(model, {"x": X}, include=("w",))
    assert model.graph.initializers["w"].dtype is HALF
    assert left(change) == {"v": "not-included"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("float[N,8] x) => (uint8[N,8] y) { y = QuantizeLinear (x, s) }", "quantized"),
        ("float16[N,8] x) => (float16[N,8] y) { y = Mul (x, s) }", "is-half"),
        ("int64[N,8] x) => (int64[N,8] y) { y = Add (x, s) }", "nothing-float"),
        ("float[N,8] x) => (float[N,8] y) { y = Sin (x) z = Add (y, s) }", "nothing-large"),
    ],
)
def test_models_that_are_left_alone_are_told_why(text, code):
    dtype = {"is-half": np.float16, "nothing-float": np.int64}.get(code, np.float32)
    model = from_text(f'<ir_version: 9, opset_import: ["" : 17]> g ({text}', s=np.ones(1, dtype))
    before = nodes_of(model.graph)
    feeds = {"x": np.ones((2, 8), dtype)}
    change = convert(model, feeds)
    assert not change.modified
    assert left(change)["model"] == code
    assert nodes_of(model.graph) == before


def test_what_breaks_when_every_value_is_rounded_is_stored_only():
    """A chaotic map: each step doubles what rounding has moved."""
    steps = " ".join(f"a{n} = Mul (x{n}, two) x{n + 1} = Mod <fmod = 1> (a{n}, one)" for n in range(24))
    text = f"""<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y) {{ x0 = MatMul (x, w) {steps} y = Relu (x24) }}"""
    model = from_text(text, w=drawn(8, 8), two=np.float32([2]), one=np.float32([1]))
    change = convert(model, {"x": X}, activations=Inner.HALF)
    why = next(note for note in change.notes if note.subject == "inner values")
    assert why.code == "broken"
    assert dtypes(model)["x0"] is FLOAT
    assert model.graph.initializers["w"].dtype is HALF


def test_bfloat16_raises_the_opset_where_it_must():
    model = from_text(NET.replace("17", "11"), w=drawn(8, 16), v=drawn(16, 4))
    convert(model, {"x": X}, type=HalfType.BFLOAT16)
    assert model.graph.opset_imports[""] >= 13
    assert model.graph.initializers["w"].const_value.numpy().dtype == ml_dtypes.bfloat16
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,4,6,6] x) => (float[N,2,6,6] y) { y = Conv (x, w) }"""
    model = from_text(text, w=drawn(2, 4, 1, 1))
    convert(model, {"x": drawn(2, 4, 6, 6)}, CUDA, type=HalfType.BFLOAT16)
    assert model.graph.opset_imports[""] == 22
    assert dtypes(model)["y_inner"] is ir.DataType.BFLOAT16


def test_an_old_model_that_cannot_be_raised_is_left(monkeypatch):
    monkeypatch.setattr("onnxslim.pipeline.opset.LARGEST", 0)
    model = from_text(NET.replace("17", "11"), w=drawn(8, 16), v=drawn(16, 4))
    change = convert(model, {"x": X}, type=HalfType.BFLOAT16)
    assert left(change) == {"model": "too-large"}


def test_weights_in_a_file_of_their_own(tmp_path):
    ir.save(net(w=drawn(8, 64), v=drawn(64, 4)), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    model = open_model(tmp_path / "m.onnx")
    expected = run(model, {"x": X})["y"]
    Half().run(model, make_context(model, {"x": X}, target=CPU))
    save_model(model, tmp_path / "half.onnx")
    assert sqnr(expected, Session.of(tmp_path / "half.onnx", CPU).run({"x": X})["y"]) > 60
    (data,) = tmp_path.glob("half.onnx.*.data")
    assert data.stat().st_size >= 2 * (8 * 64 + 64 * 4)


def test_bad_options():
    with pytest.raises(BadOptionValue, match="headroom is 0"):
        Half(headroom=0)
    with pytest.raises(BadOptionValue, match="there is no target 'tpu'"):
        Half(target="tpu")
    with pytest.raises(BadOptionValue, match="samples is 0"):
        Half(samples=0)


def test_what_is_written_for_another_provider_is_not_judged_by_its_speed_here():
    assert Half().untimed("cpu") is None
    assert Half(target="tensorrt").untimed("cpu") is not None
    assert Half(activations=Inner.FLOAT).pursues is Goal.SIZE
    assert Half().pursues is None


@pytest.mark.parametrize("target", ["tensorrt", "qnn", "qdq"])
def test_targets_that_run_all_ops_in_half_precision(target):
    model = net()
    change = convert(model, {"x": X}, target)
    assert not left(change)
    assert dtypes(model)["r"] is HALF


def test_the_milder_form_stores_weights_only():
    assert Half(activations=Inner.FLOAT).milder(1.0) is None
    assert Half().milder(1.0) == Half()
    assert Half().milder(0.5) == Half(activations=Inner.FLOAT)


def test_headroom_and_synthetic_samples_widen_ranges():
    model = net(w=drawn(8, 16, scale=3e3))
    assert "overflow" not in left(convert(model, {"x": X}, activations=Inner.HALF, headroom=1.0)).values()
    model = net(w=drawn(8, 16, scale=3e3))
    assert left(convert(model, {"x": X}, activations=Inner.HALF, headroom=100.0))["h"] == "overflow"


def fashion(name, count):
    with np.load(MODELS / f"fashion_{name}.npz") as file:
        return {key: file[key][:count] if file[key].ndim else file[key] for key in file}


@pytest.mark.parametrize("options", ["", ":activations=half"])
def test_a_run_on_the_cpu_halves_the_file_and_keeps_the_task(options):
    result = onnxslim.optimize(
        MODELS / "fashion_resnet8.onnx",
        f"half{options}",
        data=fashion("calib", 32),
        val=fashion("test", 64),
        provider="cpu",
        max_drop=0.02,
        measure=False,
        threads=1,
    )
    assert result.report.budget.met
    assert result.report.passes[-1].kept
    assert result.report.ratio.size > 1.9


@pytest.mark.parametrize("type", list(HalfType))
def test_real_networks_keep_their_answers(type):
    model = open_model(MODELS / "fashion_resnet8.onnx")
    name = model.graph.inputs[0].name
    seen, new = (fashion(part, 32)["image"].astype(np.float32) / 255 for part in ("calib", "test"))
    expected = next(iter(run(model, {name: new}).values()))
    change = convert(model, {name: seen}, CUDA if type is HalfType.FLOAT16 else "cpu", type=type)
    assert change.modified
    found = next(iter(run_rounded(model, {name: new}).values()))
    assert sqnr(expected, found) > (45 if type is HalfType.FLOAT16 else 30)
