"""Weight-only quantization: what is stored, that it computes what its integers say, what ONNX Runtime makes of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.quant import Quant, weight_only
from onnxslim.passes.quant.scales import Activations
from onnxslim.passes.quant.weight_only import kernels
from onnxslim.passes.quant.weight_only.grids import WeightType, fit_grid
from onnxslim.passes.quant.weight_only.kernels import load_kernels
from onnxslim.passes.quant.weight_only.writing import WeightFormat, pack
from quantized_models import optimized_ops
from sample_models import from_text
from story import VNNI, make_context, nodes_of

from onnxslim.errors import BadOptionValue, ExtensionError
from onnxslim.model import weight_bytes
from onnxslim.pipeline.interface import Goal
from onnxslim.runtime.provider import Provider
from onnxslim.runtime.session import Session

NBITS, QDQ = WeightFormat.NBITS, WeightFormat.QDQ
BITS = {WeightType.INT8: 8, WeightType.INT4: 4, WeightType.INT2: 2}

MATMUL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,64] x) => (float[N,48] y) { p = MatMul (x, w) y = Add (p, b) }"""
GEMM = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,64] x) => (float[N,48] y) { y = Gemm <transB = 1> (x, w, b) }"""
CONV = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,8,6,6] x) => (float[N,16,6,6] y) { y = Conv <group = 2, pads = [1, 1, 1, 1]> (x, w, b) }"""
TIED = """<ir_version: 8, opset_import: ["" : 17]>
g (int64[N,5] i) => (float[N,5,40] y) {
    e = Gather (w, i) r = Relu (e) t = Transpose <perm = [1, 0]> (w) y = MatMul (r, t)
}"""


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def correlated(count, width, seed=1):
    """Rows whose columns hang together, about a mean that is not zero."""
    mixing = np.random.default_rng(0).normal(size=(6, width))
    return (np.random.default_rng(seed).normal(size=(count, 6)) @ mixing + 1).astype(np.float32)


MODELS = {
    "MatMul": (MATMUL, {"w": draw(64, 48), "b": draw(48)}, {"x": correlated(64, 64)}),
    "Gemm": (GEMM, {"w": draw(48, 64), "b": draw(48)}, {"x": correlated(64, 64)}),
    "Conv": (CONV, {"w": draw(16, 4, 3, 3), "b": draw(16)}, {"x": correlated(16, 288).reshape(16, 8, 6, 6)}),
    "tied": (TIED, {"w": draw(40, 64)}, {"i": np.random.default_rng(0).integers(0, 40, (16, 5))}),
}


def quantize(name, **options):
    text, weights, feeds = MODELS[name]
    model = from_text(text, **weights)
    before = model.clone()
    step = Quant(activations=Activations.FLOAT, **options)
    return before, model, step.run(model, make_context(before, feeds, target=VNNI)), feeds


def error_db(before, after, feeds):
    """How far the outputs of a model lie from those of another, in decibels below them."""
    reference, found = (next(iter(Session.of(model).run(feeds).values())) for model in (before, after))
    return 10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum())


@pytest.mark.parametrize("form", [NBITS, QDQ], ids=["nbits", "qdq"])
@pytest.mark.parametrize("kind", list(BITS), ids=lambda kind: kind.value)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "Conv"])
def test_products_and_tables_compute_what_their_integers_say(name, kind, symmetric, form):
    before, after, change, feeds = quantize(name, weights=kind, block=32, symmetric=symmetric, format=form)
    assert change.modified
    tables = 8 if name == "tied" else BITS[kind]
    assert error_db(before, after, feeds) > {8: 40, 4: 18, 2: 4}[tables]
    assert [(layer.quantity, layer.before, layer.after) for layer in change.layers] == [("bits", 32, tables)]
    # 4 bits of each weight, and a scale and a zero point for 32 of them
    assert weight_bytes(after) < weight_bytes(before) * (tables / 32 + 0.2)


@pytest.mark.parametrize("kind", list(BITS), ids=lambda kind: kind.value)
@pytest.mark.parametrize("block", [0, 16, None])
def test_convolutions_are_stored_as_dequantize_linear(kind, block):
    before, after, change, feeds = quantize("Conv", weights=kind, block=block)
    assert change.modified
    assert error_db(before, after, feeds) > {8: 40, 4: 15, 2: 2}[BITS[kind]]


def test_golden_matmul_as_dequantize_linear():
    _, model, change, _ = quantize("MatMul", weights=WeightType.INT4, format=QDQ)
    assert nodes_of(model.graph) == [
        "w0 = DequantizeLinear <axis = 0, block_size = 32> (w_levels[64, 48], w_scale[2, 48], w_zero_point[2, 48])",
        "p = MatMul (x, w0)",
        "y = Add (p, b[48])",
    ]
    assert model.graph.opset_imports[""] == 21
    assert model.graph.initializers["w_levels"].dtype is ir.DataType.UINT4
    assert any(note.action == "4 bits in blocks of 32" for note in change.notes)


def test_golden_gemm_as_kernel():
    _, model, _, _ = quantize("Gemm", weights=WeightType.INT4, symmetric=True)
    assert nodes_of(model.graph) == [
        "y = MatMulNBits <K = 64, N = 48, bits = 4, block_size = 32, accuracy_level = 4> "
        "(x, w_levels[48, 2, 16], w_scale[48, 2], -, -, b[48])"
    ]
    assert model.graph.opset_imports[""] == 17


def test_golden_tied_table_is_stored_once():
    _, model, _, _ = quantize("tied", weights=WeightType.INT8, block=16)
    assert nodes_of(model.graph) == [
        "e = GatherBlockQuantized <gather_axis = 0, quantize_axis = 1, block_size = 16, bits = 8> "
        "(w_levels[40, 64], i, w_scale[40, 4])",
        "r = Relu (e)",
        "w0 = Reshape (w_levels[40, 64], [40, 4, 16])",
        "y = MatMulNBits <K = 64, N = 40, bits = 8, block_size = 16, accuracy_level = 4> (r, w0, w_scale[40, 4])",
    ]


def test_what_onnx_runtime_makes_of_dequantize_linear(tmp_path):
    for name in ("MatMul", "Gemm"):
        _, model, _, _ = quantize(name, weights=WeightType.INT4, format=QDQ)
        ops = optimized_ops(model, tmp_path)
        assert "MatMulNBits" in ops
        assert "DequantizeLinear" not in ops


def test_onnx_runtime_does_not_fold_the_weight_of_a_convolution(tmp_path):
    _, model, _, _ = quantize("Conv", weights=WeightType.INT4)
    assert "DequantizeLinear" in optimized_ops(model, tmp_path)


def test_the_levels_of_a_tied_table_are_read_as_they_are(tmp_path):
    _, model, _, _ = quantize("tied", weights=WeightType.INT8, block=32)
    assert sorted(optimized_ops(model, tmp_path)) == ["GatherBlockQuantized", "MatMulNBits", "Relu"]


def test_rounding_that_knows_the_inputs_is_better():
    before, fitted, _, feeds = quantize("MatMul", weights=WeightType.INT4)
    text, weights, _ = MODELS["MatMul"]
    alone = from_text(text, **weights)
    change = Quant(activations=Activations.FLOAT, weights=WeightType.INT4).run(
        alone, make_context(before, {"x": feeds["x"][:4]}, target=VNNI)
    )
    assert any("4 samples say nothing" in note.reason for note in change.notes)
    held_out = {"x": correlated(512, 64, seed=2)}
    assert error_db(before, fitted, held_out) > error_db(before, alone, held_out) + 6


def test_biases_take_back_the_mean():
    _text, _weights, feeds = MODELS["MatMul"]
    lost = {}
    for corrected in (True, False):
        before, after, _, _ = quantize("MatMul", weights=WeightType.INT2, bias_correction=corrected)
        reference, found = (Session.of(model).run(feeds)["y"] for model in (before, after))
        lost[corrected] = np.abs((found - reference).mean(axis=0)).max()
    assert lost[True] < lost[False] / 10


def test_a_share_of_the_error_is_kept_by_more_bits():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,64] x) => (float[N,48] y) { p = MatMul (x, w) r = Relu (p) y = MatMul (r, v) }"""
    model = from_text(text, w=draw(64, 64), v=draw(64, 48, seed=3))
    step = Quant(activations=Activations.FLOAT, weights=WeightType.INT4, error=0.7)
    change = step.run(model, make_context(model, {"x": correlated(64, 64)}, target=VNNI))
    assert sorted(layer.after for layer in change.layers) == [4, 8]
    assert sorted(row.became for row in change.sensitivity) == ["int4", "int8"]
    first, second = sorted(change.sensitivity, key=lambda row: row.became)
    assert first.share + second.share == pytest.approx(1)
    assert {row.measured_on for row in change.sensitivity} == {"outputs"}
    assert first.bytes_after == {16384: 2048, 12288: 1536}[first.bytes_before] + first.bytes_before // 32, "and scales"
    assert second.bytes_after > second.bytes_before / 4
    assert "of what is lost" in second.why
    assert not first.why
    assert isinstance(step.milder(0.5), Quant)
    assert step.milder(0.5).error == pytest.approx(0.175)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_noise_of_a_weight_is_that_of_the_outputs(name):
    before, after, change, feeds = quantize(name, weights=WeightType.INT4, bias_correction=False)
    (row,) = change.sensitivity
    assert row.measured_on == "outputs"
    assert row.sqnr_db == pytest.approx(error_db(before, after, feeds), abs=2.5), "kernels round, too"


def test_the_weight_that_costs_the_outputs_most_gets_more_bits_though_it_loses_less_itself():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,64] x) => (float[N,64] y) { p = MatMul (x, w) q = MatMul (x, v) y = Add (p, q) }"""
    model = from_text(text, w=draw(64, 64), v=draw(64, 64, seed=3) / 100)
    step = Quant(activations=Activations.FLOAT, weights=WeightType.INT4, error=0.5)
    change = step.run(model, make_context(model, {"x": correlated(64, 64)}, target=VNNI))
    assert [row.became for row in change.sensitivity] == ["int8", "int4"]
    assert change.sensitivity[0].share > 0.99


def test_models_too_large_for_copies_have_the_noise_of_products(monkeypatch):
    monkeypatch.setattr(weight_only, "MOST_BYTES", 1000)
    _, _, change, _ = quantize("MatMul", weights=WeightType.INT4)
    (row,) = change.sensitivity
    assert row.measured_on == "products"
    assert any(f"{row.sqnr_db:.1f} dB below what it makes" in note.reason for note in change.notes)


def test_int8_that_costs_too_much_stays_float():
    _, _model, change, _ = quantize("MatMul", weights=WeightType.INT8, error=1e-6)
    assert not change.modified
    assert "no layer is left that costs the outputs little enough" in change.notes[0].reason
    assert any(note.code == "loses-most" for note in change.notes)
    assert [row.became for row in change.sensitivity] == ["float"]


@pytest.mark.parametrize(
    ("text", "weights", "code"),
    [
        ("y = MatMul (x, w)", {"w": draw(64, 2)}, "too-small"),
        ("y = MatMul (x, w)", {"w": np.full((64, 48), np.nan, np.float32)}, "weight-not-finite"),
        ("p = MatMul (x, w) y = Add (p, w)", {"w": draw(64, 64)}, "weight-of-other-op"),
        ("e = Gather (w, j) y = MatMul (x, w)", {"w": draw(64, 64), "j": np.array([1])}, "weight-of-other-op"),
    ],
)
def test_what_is_left_alone_is_told(text, weights, code):
    feeds = {"x": correlated(64, 64)}
    outputs = "float[M,64] y, float[1,64] e" if "Gather" in text else "float[M,K] y"
    model = from_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[64,64] x) => ({outputs}) {{ {text} }}', **weights
    )
    change = Quant(activations=Activations.FLOAT).run(
        model, make_context(from_text(MATMUL, **MODELS["MatMul"][1]), feeds)
    )
    assert not change.modified
    assert code in {note.code for note in change.notes}


def test_nbits_leaves_what_has_no_kernel():
    _, _, change, _ = quantize("Conv", weights=WeightType.INT4, format=NBITS)
    assert not change.modified
    assert "weights of 4 bits in such blocks cannot be stored for it as nbits" in {note.reason for note in change.notes}


def test_a_turned_weight_that_stays_float_stays_turned():
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,64] x) => (float[N,40] y, float[40,64] z) {
        t = Transpose <perm = [1, 0]> (v) y = MatMul (x, t) z = Relu (v)
    }"""
    model = from_text(text, v=draw(40, 64))
    change = Quant(activations=Activations.FLOAT).run(model, make_context(model, {"x": correlated(64, 64)}))
    assert not change.modified


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(BadOptionValue, match="weights=codebook needs activations=float"):
        Quant(weights=WeightType.CODEBOOK)
    with pytest.raises(BadOptionValue, match="block is -1"):
        Quant(activations=Activations.FLOAT, block=-1)


def test_it_is_judged_by_size():
    assert Quant(activations=Activations.FLOAT).pursues is Goal.SIZE
    assert Quant().pursues is None


@pytest.mark.parametrize("role", ["product", "table"])
def test_every_kernel_that_is_declared_is_there(role):
    kernel = getattr(load_kernels("cpu"), role)
    generator = np.random.default_rng(0)
    for bits, blocks in kernel.blocks.items():
        for block in blocks:
            levels = generator.integers(0, 2**bits, (6, 2 * block)).astype(np.uint8)
            packed, scale = pack(levels, bits), np.full((6, 2), 0.5, np.float32)
            wanted = (levels.astype(np.float32) - 2 ** (bits - 1)) / 2
            attributes = {**kernel.attributes, "bits": bits, "block_size": block}
            if role == "product":
                attributes |= {"K": 2 * block, "N": 6}
                inputs, feeds = (["x", "w", "s"], {"x": np.eye(2 * block, dtype=np.float32)})
                packed, given = packed.reshape(6, 2, -1), f"float[{2 * block},{2 * block}] x"
            else:
                attributes |= {"gather_axis": 0, "quantize_axis": 1}
                inputs, feeds, given = ["w", "i", "s"], {"i": np.arange(6)}, "int64[6] i"
            settings_ = ", ".join(f"{name} = {value}" for name, value in attributes.items())
            text = f"""<ir_version: 8, opset_import: ["" : 17, "{kernel.domain}" : 1]>
            g ({given}) => (float[A,B] y) {{
                y = {kernel.domain}.{kernel.op_type} <{settings_}> ({", ".join(inputs)})
            }}"""
            made = Session.of(from_text(text, w=packed, s=scale)).run(feeds)["y"]
            np.testing.assert_allclose(made.T if role == "product" else made, wanted, atol=1e-5)


def test_a_provider_without_kernels_gets_dequantize_linear():
    assert load_kernels("tensorrt").product is None


def test_kernels_that_cannot_be_read_are_named(monkeypatch):
    provider = Provider("tpu", "TPUExecutionProvider", "TPU", weight_only={"product": {"op": "MatMulNBits"}})
    monkeypatch.setattr(kernels, "load_provider", lambda name: provider)
    with pytest.raises(ExtensionError, match="the weight_only table of tpu cannot be read: KeyError: 'blocks'"):
        load_kernels.__wrapped__("tpu")


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from([2, 4, 8]),
    st.integers(0, 40),
    st.booleans(),
    st.integers(0, 99),
)
def test_levels_are_the_nearest_there_are(columns, outputs, bits, block, symmetric, seed):
    weight = draw(columns, outputs, seed=seed)
    grid = fit_grid(weight, bits, block, symmetric=symmetric)
    levels = grid.levels(weight)
    assert levels.max() < 2**bits
    error = np.abs(grid.dequantized(levels) - weight)
    for change in (-1, 1):
        other = levels.astype(int) + change
        there = (other >= 0) & (other < 2**bits)
        worse = np.abs(grid.dequantized(np.clip(other, 0, 255).astype(np.uint8)) - weight)
        assert (error <= worse + 1e-6)[there].all()
    for column in range(columns):
        np.testing.assert_allclose(
            grid.nearest(column, weight[column].astype(np.float64)), grid.dequantized(levels)[column], atol=1e-5
        )


def test_zeros_stay_zeros():
    grid = fit_grid(np.zeros((4, 3), np.float32), 4, 2, symmetric=False)
    assert not grid.dequantized(grid.levels(np.zeros((4, 3), np.float32))).any()


def test_the_same_model_comes_out_twice():
    one, two = (ir.to_proto(quantize("Conv", weights=WeightType.INT4)[1]) for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)
