"""How a model is quantized already is told from its ops and element types, for every scheme that people deploy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.quantized import QuantizedLayers, count_quantized, quantized_layers, scheme_of
from onnxslim.analysis.shapes import infer_shapes

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
LEVELS = np.ones((8, 8), np.int8)
SCALE = {"s": np.float32(0.1), "z": np.int8(0)}
PAIR = "q = QuantizeLinear (x, s, {z}) d = DequantizeLinear (q, s, {z}) v = DequantizeLinear (w, s, z)"


def model(body: str, **weights: np.ndarray) -> ir.Model:
    made = from_text(f"{HEAD} g (float[8,8] x) => (float[8,8] y) {{ {body} }}", **weights)
    infer_shapes(made)
    return made


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        (f"{PAIR.format(z='z')} y = MatMul (d, v)", {"w": LEVELS, **SCALE}, ("QDQ", 8, 8)),
        (f"{PAIR.format(z='u')} y = MatMul (d, v)", {"w": LEVELS, "u": np.uint16(9), **SCALE}, ("QDQ", 8, 16)),
        (
            "q = QuantizeLinear (x, s, u) c = Clip (q, l, h) d = DequantizeLinear (c, s, u)"
            " v = DequantizeLinear (w, s, z) y = MatMul (d, v)",
            {"w": LEVELS, "u": np.uint8(9), "l": np.uint8(0), "h": np.uint8(15), **SCALE},
            ("QDQ", 8, 4),
        ),
        ("v = DequantizeLinear (w, s, z) y = MatMul (x, v)", {"w": LEVELS, **SCALE}, ("weight-only", 8, None)),
        (
            "q = QuantizeLinear (x, s, z) m = QLinearMatMul (q, s, z, w, s, z, s, z) y = DequantizeLinear (m, s, z)",
            {"w": LEVELS, **SCALE},
            ("QOperator", 8, 8),
        ),
        (
            "q, t, u = DynamicQuantizeLinear (x) i = MatMulInteger (q, w, u) c = Cast <to = 1> (i) y = Mul (c, t)",
            {"w": LEVELS},
            ("dynamic", 8, 8),
        ),
        (
            "y = com.microsoft.MatMulNBits <K = 8, N = 8, bits = 4, block_size = 16> (x, w, k)",
            {"w": np.ones((8, 1, 8), np.uint8), "k": np.ones((8, 1), np.float32)},
            ("packed", 4, None),
        ),
    ],
    ids=["static", "16 bits", "4 bits", "weight-only", "operators", "dynamic", "packed"],
)
def test_a_scheme_is_recognised(
    body: str, weights: dict[str, np.ndarray], expected: tuple[str, int, int | None]
) -> None:
    found = model(body, **weights)
    assert quantized_layers(found) == (QuantizedLayers(*expected, count=1),)
    assert count_quantized(found)


def test_a_bias_is_no_layer_and_floats_are_none() -> None:
    body = "v = DequantizeLinear (b, s) y = Add (x, v)"
    assert quantized_layers(model(body, b=np.ones(8, np.int32), s=np.float32(1))) == ()
    assert quantized_layers(model("y = MatMul (x, w)", w=np.ones((8, 8), np.float32))) == ()


def test_scales_without_a_weight_are_no_layer() -> None:
    added = "a = com.microsoft.QLinearAdd (q, s, z, q, s, z, s, z)"
    found = model(f"q = QuantizeLinear (x, s, z) {added} y = DequantizeLinear (a, s, z)", **SCALE)
    assert quantized_layers(found) == ()
    assert set(count_quantized(found)) == {"QuantizeLinear", "QLinearAdd", "DequantizeLinear"}


def test_ops_belong_to_schemes() -> None:
    assert scheme_of("", "QLinearConv") == "QOperator"
    assert scheme_of("com.microsoft", "DynamicQuantizeLSTM") == "dynamic"
    assert scheme_of("org.pytorch.aten", "quantized_linear") == "QOperator"
    assert scheme_of("", "Conv") is None
