"""The pass as a whole: what it writes, what it leaves in float32 and why, and that the result holds."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from half_models import CPU, CUDA, FLOAT, HALF, NET, X, convert, drawn, dtypes, left, net, run, run_rounded, sqnr
from onnxslim.passes.half import Half, Inner, Interface
from onnxslim.passes.half.formats import HalfType
from sample_models import from_text
from story import make_context, nodes_of
from zoo import MODELS

import onnxslim
from onnxslim.errors import BadOptionValue
from onnxslim.model import canonicalize, open_model, save_model, weight_bytes
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Goal
from onnxslim.runtime.session import Session


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
