"""Dynamic quantization: what is written, what ONNX Runtime makes of it, and that nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant, dynamic
from onnxslim.passes.quant.dynamic import load_dynamic_rows
from onnxslim.passes.quant.scales import Activations
from quantized_models import optimized_ops
from sample_models import from_text
from story import AVX2, HERE, make_context, nodes_of

from onnxslim.data import synthetic_samples
from onnxslim.errors import ExtensionError
from onnxslim.runtime.provider import Provider
from onnxslim.runtime.session import Session

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g'


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


LSTM = f"""{HEAD} (float[7,N,16] x) => (float[7,2,N,12] y, float[2,N,12] h) {{
    y, h = LSTM <hidden_size = 12, direction = "bidirectional"> (x, w, r, b) }}"""
EXAMPLES = {
    "MatMul": (f"{HEAD} (float[N,64] x) => (float[N,48] y) {{ y = MatMul (x, w) }}", {"w": draw(64, 48)}, draw(8, 64)),
    "Gemm": (
        f"{HEAD} (float[N,64] x) => (float[N,48] y) {{ y = Gemm <transB = 1> (x, w, b) }}",
        {"w": draw(48, 64), "b": draw(48)},
        draw(8, 64),
    ),
    "LSTM": (LSTM, {"w": draw(2, 48, 16), "r": draw(2, 48, 12), "b": draw(2, 96)}, draw(7, 3, 16)),
}
"""One use of each op of the table, from x to y."""
TWO = f"""{HEAD} (float[N,64] x) => (float[N,48] y, float[N,32] z) {{ y = MatMul (x, w) z = MatMul (x, v) }}"""


def quantize(text, weights, feeds, target=HERE, written_for="auto"):
    model = from_text(text, **weights)
    before = model.clone()
    return (
        before,
        model,
        Quant(activations=Activations.DYNAMIC, target=written_for).run(
            model, make_context(before, feeds, target=target)
        ),
    )


@pytest.mark.parametrize("op_type", sorted(load_dynamic_rows("cpu")))
@pytest.mark.parametrize("per_channel", [True, False])
def test_row_becomes_what_it_says(op_type, per_channel, tmp_path):
    text, weights, x = EXAMPLES[op_type]
    before = from_text(text, **weights)
    model = before.clone()
    step = Quant(activations=Activations.DYNAMIC, per_channel=per_channel)
    assert step.run(model, make_context(before, synthetic_samples(before, 2), target=HERE)).modified
    assert optimized_ops(model, tmp_path) == [load_dynamic_rows("cpu")[op_type].becomes[0]]
    feeds = {"x": x}
    reference, found = (Session.of(one, HERE).run(feeds)["y"] for one in (before, model))
    assert 10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum()) > 25


def test_products_that_read_the_same_are_quantized_once(tmp_path):
    _, model, change = quantize(TWO, {"w": draw(64, 48), "v": draw(64, 32)}, {"x": draw(8, 64)})
    ops = optimized_ops(model, tmp_path)
    assert ops.count("DynamicQuantizeLinear") == 1
    assert ops.count(load_dynamic_rows("cpu")["MatMul"].becomes[1]) == 2
    assert {layer.after for layer in change.layers} == {8}


def test_golden():
    text, weights, x = EXAMPLES["Gemm"]
    _, model, change = quantize(text, weights, {"x": x})
    assert nodes_of(model.graph) == [
        "d0, d1, d2 = DynamicQuantizeLinear (x)",
        "d3 = MatMulInteger (d0, w_int8[64, 48], d2)",
        "d4 = Cast <to = 1> (d3)",
        "d5 = Mul (d1, w_scale[48])",
        "d6 = Mul (d4, d5)",
        "y = Add (d6, b[48])",
    ]
    assert change.notes[0].action == "100.0% of the multiply-accumulates in int8"


def test_convolutions_stay_float():
    text = f"{HEAD} (float[1,3,6,6] x) => (float[A,B,C,D] y) {{ y = Conv (x, w) }}"
    _, model, change = quantize(text, {"w": draw(16, 3, 3, 3)}, {"x": draw(1, 3, 6, 6)})
    assert not change.modified
    assert [node.op_type for node in model.graph] == ["Conv"]


@pytest.mark.parametrize(
    ("body", "weights", "code"),
    [
        ("y = MatMul (x, x)", {}, "weight-computed"),
        ("y = MatMul (x, w)", {"w": draw(64, 2)}, "too-small"),
        ("y = MatMul (x, w)", {"w": np.full((64, 48), np.inf, np.float32)}, "weight-not-finite"),
        ("y = MatMul (x, w)", {"w": draw(3, 64, 48)}, "weight-rank"),
    ],
)
def test_what_stays_float_is_told(body, weights, code):
    _, _, change = quantize(f"{HEAD} (float[64,64] x) => (float y) {{ {body} }}", weights, {"x": draw(1, 64, 64)[0]})
    assert not change.modified
    assert code in {note.code for note in change.notes}


def test_an_lstm_of_another_layout_stays_float():
    text = LSTM.replace('direction = "bidirectional"', 'direction = "bidirectional", layout = 1')
    runs, model = (from_text(each, **EXAMPLES["LSTM"][1]) for each in (LSTM, text))
    change = Quant(activations=Activations.DYNAMIC).run(model, make_context(runs, synthetic_samples(runs, 2)))
    assert not change.modified
    assert "its kernel is for layout = 0" in {note.reason for note in change.notes}


def test_weights_do_not_saturate_where_products_are_added_in_pairs():
    text, _, x = EXAMPLES["MatMul"]
    _, model, _ = quantize(text, {"w": np.full((64, 48), 1, np.float32)}, {"x": x}, AVX2)
    levels = model.graph.initializers["w_int8"].const_value.numpy().astype(int)
    assert (levels[0::2] + levels[1::2]).max() <= 128


def test_a_tied_table_stays_float_and_its_product_does_not():
    text = f"""{HEAD} (int64[N,5] i) => (float[N,5,40] y) {{
        e = Gather (w, i) t = Transpose <perm = [1, 0]> (w) y = MatMul (e, t) }}"""
    _, model, change = quantize(text, {"w": draw(40, 64)}, {"i": np.zeros((8, 5), np.int64)})
    assert change.modified
    assert {value.dtype for value in model.graph.initializers.values()} >= {ir.DataType.FLOAT, ir.DataType.INT8}
    assert "Transpose" not in [node.op_type for node in model.graph]


def test_an_old_opset_is_raised():
    text = '<ir_version: 5, opset_import: ["" : 9]> g (float[N,64] x) => (float[N,48] y) { y = MatMul (x, w) }'
    _, model, change = quantize(text, {"w": draw(64, 48)}, {"x": draw(8, 64)})
    assert change.modified
    assert model.graph.opset_imports[""] == 17


def test_there_is_one_form_only():
    assert Quant(activations=Activations.DYNAMIC).milder(0.5) is None


def test_a_quantized_model_is_left_alone():
    text, weights, x = EXAMPLES["MatMul"]
    _, model, _ = quantize(text, weights, {"x": x})
    change = Quant(activations=Activations.DYNAMIC).run(model, make_context(model, {"x": x}))
    assert not change.modified
    assert change.notes[0].code == "quantized"


def test_a_provider_without_rows_is_told():
    text, weights, x = EXAMPLES["MatMul"]
    _, _, change = quantize(text, weights, {"x": x}, written_for="tensorrt")
    assert change.notes[0].reason == "tensorrt has no kernels that quantize activations as they run"


def test_rows_that_cannot_be_read_are_named(monkeypatch):
    provider = Provider("tpu", "TPUExecutionProvider", "TPU", dynamic={"MatMul": {"turns": []}})
    monkeypatch.setattr(dynamic, "load_provider", lambda name: provider)
    with pytest.raises(ExtensionError, match="the dynamic table of tpu cannot be read: KeyError: 'becomes'"):
        load_dynamic_rows.__wrapped__("tpu")
