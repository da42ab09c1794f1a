"""Quantized models as floats: weights are those of the levels, what is cut off stays cut off, nothing is rounded."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.checker
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxslim.passes.dequantize import Dequantize
from onnxslim.passes.dequantize.stored import unpack
from onnxslim.passes.quant import Quant
from sample_models import from_text
from story import make_context

import onnxslim
from onnxslim.analysis.quantized import count_quantized
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import no_samples
from onnxslim.pipeline.interface import Change, Context
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

CPU = Target("cpu", "a processor", "avx512_vnni", 1)
HEAD = '<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]>'


def dequantize(model: ir.Model) -> Change:
    infer_shapes(model)
    change = Dequantize().run(model, Context(model.clone(), no_samples(), CPU, np.random.default_rng(0)))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return change


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: ir.Model, **feeds: np.ndarray) -> np.ndarray:
    return Session.of(model, CPU, optimize=False).run(feeds)["y"]


def test_golden() -> None:
    model = from_text(
        f"""{HEAD} g (float[N,2,4,4] x) => (float[N,3,4,4] y) {{
            q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
            v = DequantizeLinear <axis = 0> (w, k, kz)  c = Conv (d, v)
            cq = QuantizeLinear (c, s, z)  y = DequantizeLinear (cq, s, z)
        }}""",
        s=np.float32(0.5),
        z=np.uint8(2),
        w=np.arange(6, dtype=np.int8).reshape(3, 2, 1, 1),
        k=np.array([1, 2, 3], np.float32),
        kz=np.array([0, 1, 0], np.int8),
    )
    change = dequantize(model)
    assert change.modified
    assert ops(model) == ["Clip", "Conv", "Clip", "Identity"]
    first, conv, _, _ = model.graph
    assert [value.const_value.numpy().item() for value in first.inputs[1:]] == [-1.0, 126.5]
    assert conv.inputs[1].const_value.numpy().ravel().tolist() == [0, 1, 2, 4, 12, 15]
    assert model.graph.outputs[0].name == "y"
    assert [(note.subject, note.action) for note in change.notes] == [
        ("stored integers", "1 as floats"),
        ("roundings of activations", "2 as floats"),
    ]


def test_our_own_models_come_back_nearer_to_the_original() -> None:
    generator = np.random.default_rng(0)
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,4,8,8] x) => (float[N,5] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (c) d = Conv <pads = [1, 1, 1, 1]> (r, w2, b)
        s = Add (d, r) t = Relu (s) m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (t)
        p = GlobalAveragePool (m) f = Flatten (p) y = Gemm (f, v, u)
    }"""
    sizes = {"w": (4, 4, 3, 3), "w2": (4, 4, 3, 3), "b": (4,), "v": (4, 5), "u": (5,)}
    original = from_text(text, **{name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()})
    infer_shapes(original)
    x = generator.normal(size=(16, 4, 8, 8)).astype(np.float32)
    model = original.clone()
    assert Quant().run(model, make_context(original.clone(), {"x": x}, target=CPU)).modified
    expected, quantized = run(original, x=x), run(model, x=x)
    dequantize(model)
    assert not count_quantized(model)
    found = run(model, x=x)
    assert np.square(found - expected).sum() < 0.5 * np.square(quantized - expected).sum()


def test_a_relu_that_quantization_did_is_still_done() -> None:
    text = f"""{HEAD} g (float[8] x) => (float[8] y) {{
        q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }}"""
    model = from_text(text, s=np.float32(0.1), z=np.uint8(0))
    dequantize(model)
    x = np.linspace(-30, 30, 8, dtype=np.float32)
    np.testing.assert_allclose(run(model, x=x), np.clip(x, 0, 25.5), rtol=1e-6)


def test_levels_are_followed_through_what_moves_them_to_several_readers() -> None:
    text = f"""{HEAD} g (float[2,4] x) => (float[4,2] y, float[2,4] z, uint8[4,2] levels) {{
        q = QuantizeLinear (x, s, zp)  levels = Transpose <perm = [1, 0]> (q)
        y = DequantizeLinear (levels, s, zp)  d = DequantizeLinear (q, s, zp)  z = Tanh (d) }}"""
    model = from_text(text, s=np.float32(0.1), zp=np.uint8(100))
    change = dequantize(model)
    assert ops(model).count("QuantizeLinear") == 1  # the model itself gives levels
    assert "DequantizeLinear" not in ops(model)
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    found = Session.of(model, CPU).run({"x": x})
    np.testing.assert_allclose(found["y"], x.T, rtol=1e-6)
    assert found["levels"].dtype == np.uint8
    assert [note.code for note in change.notes if note.code] == ["interface"]


def test_a_table_whose_rows_are_taken_is_floats_once() -> None:
    text = f"""{HEAD} g (int64[N] i) => (float[N,3] y) {{ r = Gather (w, i) y = DequantizeLinear (r, s, z) }}"""
    table = np.arange(12, dtype=np.uint8).reshape(4, 3)
    model = from_text(text, w=table, s=np.float32(0.5), z=np.uint8(4))
    dequantize(model)
    assert not count_quantized(model)
    np.testing.assert_array_equal(run(model, i=np.array([3, 0])), (table[[3, 0]].astype(np.float32) - 4) * 0.5)


def test_dynamic_quantization_is_left_out() -> None:
    text = f"""{HEAD} g (float[3,8] x) => (float[3,5] y) {{
        q, s, z = DynamicQuantizeLinear (x)
        i = MatMulInteger (q, w, z, wz) c = Cast <to = 1> (i) k = Mul (s, ws) p = Mul (c, k)
        j = MatMulInteger (q, w, z, wz) d = Cast <to = 1> (j) l = Mul (s, ws) o = Mul (d, l) y = Add (p, o) }}"""
    levels = np.random.default_rng(0).integers(-127, 127, (8, 5)).astype(np.int8)
    model = from_text(text, w=levels, ws=np.float32(0.01), wz=np.int8(0))
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    dequantize(model)
    assert ops(model) == ["MatMul", "MatMul", "Add"]
    np.testing.assert_allclose(run(model, x=x), 2 * x @ (levels * np.float32(0.01)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_weights_are_what_onnx_runtime_multiplies_with(bits: int, zeros: bool, bias: bool) -> None:
    generator = np.random.default_rng(bits)
    wide, columns, size = 40, 6, 16
    blocks = 3
    weights = {
        "b": generator.integers(0, 256, (columns, blocks, size * bits // 8)).astype(np.uint8),
        "s": generator.uniform(0.1, 0.2, columns * blocks).astype(np.float32),
    }
    packed_zeros = -(-blocks * bits // 8)
    if zeros:
        weights["z"] = generator.integers(0, 256, columns * packed_zeros).astype(np.uint8)
    if bias:
        weights["c"] = generator.normal(size=columns).astype(np.float32)
    inputs = f"x, b, s{', z' if zeros else ', ' * bias}{', , c' if bias else ''}"
    text = f"""{HEAD} g (float[5,{wide}] x) => (float[5,{columns}] y) {{
        y = com.microsoft.MatMulNBits <K = {wide}, N = {columns}, bits = {bits}, block_size = {size}> ({inputs}) }}"""
    model = from_text(text, **weights)
    x = generator.normal(size=(5, wide)).astype(np.float32)
    expected = run(model, x=x)
    assert dequantize(model).modified
    assert ops(model) == ["MatMul", "Add"][: 1 + bias]
    np.testing.assert_allclose(run(model, x=x), expected, rtol=1e-4, atol=1e-4)


@given(st.sampled_from([1, 2, 4, 8]), st.binary(min_size=1, max_size=9))
def test_levels_are_unpacked_low_bits_first(bits: int, data: bytes) -> None:
    levels = unpack(np.frombuffer(data, np.uint8), bits)
    number = sum(int(level) << (bits * index) for index, level in enumerate(levels))
    assert number == int.from_bytes(data, "little")


@pytest.mark.parametrize("channels", [False, True])
def test_a_recurrence_has_floats_again(channels: bool) -> None:
    generator = np.random.default_rng(0)
    each = (2, 12) if channels else (2,)
    weights = {
        "w": generator.integers(-64, 64, (2, 4, 12)).astype(np.int8),
        "r": generator.integers(-64, 64, (2, 3, 12)).astype(np.int8),
        **{name: generator.uniform(0.005, 0.01, each).astype(np.float32) for name in ("ws", "rs")},
        **{name: np.zeros(each, np.int8) for name in ("wz", "rz")},
    }
    text = f"""{HEAD} g (float[5,1,4] x) => (float[] y) {{
        y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 3, direction = "bidirectional">
            (x, w, r, , , , , , ws, wz, rs, rz) }}"""
    model = from_text(text, **weights)
    x = generator.normal(size=(5, 1, 4)).astype(np.float32)
    expected = run(model, x=x)
    dequantize(model)
    assert ops(model) == ["LSTM"]
    np.testing.assert_allclose(run(model, x=x), expected, atol=0.02)  # its data were rounded


UNARY = {
    "QLinearSigmoid": "Sigmoid",
    "QLinearLeakyRelu <alpha = 0.2>": "LeakyRelu",
    "QLinearGlobalAveragePool <channels_last = 0>": "GlobalAveragePool",
    "QLinearAveragePool <kernel_shape = [2, 2], strides = [1, 1]>": "AveragePool",
    "QLinearSoftmax <axis = -1, opset = 17>": "Softmax",
}


@pytest.mark.parametrize("call", UNARY)
def test_ops_of_one_operand_keep_their_attributes(call: str) -> None:
    text = f"""{HEAD} g (uint8[1,2,4,4] x) => (float[] y) {{
        q = com.microsoft.{call} (x, xs, xz, ys, yz) y = DequantizeLinear (q, ys, yz) }}"""
    model = from_text(text, xs=np.float32(0.03), xz=np.uint8(128), ys=np.float32(1 / 64), yz=np.uint8(128))
    x = np.random.default_rng(0).integers(0, 256, (1, 2, 4, 4)).astype(np.uint8)
    expected = run(model, x=x)
    dequantize(model)
    assert UNARY[call] in ops(model)
    assert np.abs(run(model, x=x) - expected).max() <= 1 / 64


def test_concatenated_levels_have_scales_of_their_own() -> None:
    text = f"""{HEAD} g (float[2,3] a, float[2,3] b) => (float[2,6] y) {{
        aq = QuantizeLinear (a, s, z) bq = QuantizeLinear (b, t, z)
        q = com.microsoft.QLinearConcat <axis = 1> (ys, z, aq, s, z, bq, t, z) y = DequantizeLinear (q, ys, z) }}"""
    scales = {"s": np.float32(0.02), "t": np.float32(0.05), "ys": np.float32(0.05), "z": np.uint8(128)}
    model = from_text(text, **scales)
    a, b = np.random.default_rng(0).normal(size=(2, 2, 3)).astype(np.float32)
    dequantize(model)
    assert not count_quantized(model)
    np.testing.assert_allclose(run(model, a=a, b=b), np.concatenate([a, b], axis=1), rtol=1e-6)


def test_what_has_no_float_form_is_named() -> None:
    text = f"""{HEAD} g (uint8[1,4,4,2] x, float s) => (float[] y) {{
        [pool] q = com.microsoft.QLinearGlobalAveragePool <channels_last = 1> (x, xs, xz, xs, xz)
        [out] y = DequantizeLinear (q, s, xz) }}"""
    model = from_text(text, xs=np.float32(0.03), xz=np.uint8(128))
    change = dequantize(model)
    assert not change.modified
    assert {(note.subject, note.code) for note in change.notes} == {
        ("pool", "no-float-form"),
        ("out", "beside-integers"),
    }


@pytest.mark.parametrize(
    "call",
    [
        "QLinearSigmoid (x, s)",
        "QLinearConcat <axis = 1> (s, z, x, s)",
        "MatMulNBits <K = 0, N = 4, bits = 4, block_size = 0> (f, w, s)",
        "MatMulNBits <K = 4, N = 4, bits = 3, block_size = 16> (f, w, s)",
        "MatMulNBits <K = 4, N = 4, bits = 4, block_size = 16> (f, w, s)",
        "MatMulNBits <bits = 4> (f, w)",
        "DynamicQuantizeLSTM <hidden_size = 3> (f, v, v, , , , , , t, z, s, z)",
        "DynamicQuantizeLSTM (f)",
    ],
)
def test_what_no_runtime_would_take_is_left_as_it_is(call: str) -> None:
    text = f"{HEAD} g (uint8[1,4,4,2] x, float[1,4] f) => (float[] y) {{ [bad] y = com.microsoft.{call} }}"
    arrays = {
        **{"s": np.float32(0.03), "z": np.uint8(128), "t": np.ones(5, np.float32)},
        **{"w": np.ones((4, 1, 8), np.uint8), "v": np.ones((1, 4, 12), np.int8)},
    }
    words = call.partition("(")[2].replace(",", " ").replace(")", " ").split()
    model = from_text(text, **{name: array for name, array in arrays.items() if name in words})
    change = Dequantize().run(model, Context(model.clone(), no_samples(), CPU, np.random.default_rng(0)))
    assert not change.modified
    assert [(note.subject, note.code) for note in change.notes] == [("bad", "no-float-form")]


def test_a_model_of_floats_is_left_alone_and_an_old_one_too() -> None:
    (note,) = dequantize(from_text(f"{HEAD} g (float[2] x) => (float[2] y) {{ y = Tanh (x) }}")).notes
    assert note.code == "not-quantized"
    old = '<ir_version: 7, opset_import: ["" : 11]> g (uint8[2] x) => (float[2] y) { y = DequantizeLinear (x, s) }'
    (note,) = dequantize(from_text(old, s=np.float32(1))).notes
    assert note.code == "old-opset"


def test_it_is_kept_however_slow_floats_are_and_quant_comes_after() -> None:
    text = f"""{HEAD} g (float[1,64] x) => (float[1,64] y) {{
        q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  v = DequantizeLinear (w, s, wz)
        m = MatMul (d, v)  mq = QuantizeLinear (m, s, z)  y = DequantizeLinear (mq, s, z) }}"""
    weights = {"w": np.random.default_rng(0).integers(-99, 99, (64, 64)).astype(np.int8), "wz": np.int8(0)}
    model = from_text(text, s=np.float32(0.05), z=np.uint8(128), **weights)
    result = onnxslim.optimize(model, "quant,dequantize", provider="cpu", threads=1)
    assert [step.name for step in result.report.passes] == ["simplify", "dequantize", "quant"]
    assert result.report.passes[1].kept
    assert "whatever they cost" in result.report.passes[1].reason


@pytest.mark.parametrize(
    ("read", "kept"),
    [(np.float32(0.5), 0), (np.float16(0.5), 1), (np.float32(0), 0)],
    ids=["another scale", "of another type", "zero"],
)
def test_levels_that_are_read_on_another_scale_are_floats_of_it(read: np.floating, kept: int) -> None:
    kind = "float16" if read.dtype == np.float16 else "float"
    model = from_text(
        f"""<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] y, {kind}[4] z) {{
            q = QuantizeLinear (x, s, o) c = Clip (q, low, high)
            y = DequantizeLinear (q, s, o) z = DequantizeLinear (c, t, p) }}""",
        s=np.float32(0.25),
        o=np.uint8(100),
        low=np.uint8(90),
        high=np.uint8(120),
        t=read,
        p=np.uint8(92),
    )
    feeds = {"x": np.array([-9.5, -1.25, 3.0, 9.0], np.float32)}
    before = Session.of(model, CPU).run(feeds)
    dequantize(model)
    assert ops(model).count("DequantizeLinear") == kept
    after = Session.of(model, CPU).run(feeds)
    for name in before:
        np.testing.assert_allclose(after[name], before[name])


def test_levels_of_a_scale_of_zero_stay_levels() -> None:
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[4] x) => (float[4] z) {
            q = QuantizeLinear (x, s, o) z = DequantizeLinear (q, t, o) }""",
        s=np.float32(0),
        t=np.float32(0.5),
        o=np.uint8(1),
    )
    dequantize(model)
    assert ops(model).count("DequantizeLinear") == 1
