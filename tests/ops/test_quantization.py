"""The types of what quantized ops make: of integers, of the zero point of the result, or floats."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes

INT8, UINT8, INT32, FLOAT = ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.FLOAT
CASES = {
    "MatMulInteger (a, b)": INT32,
    # the zero point of the result: ONNX says that it gives the type (QLinearMatMul, T3)
    "QLinearMatMul (a, s, za, b, s, zb, s, zb)": INT8,
    "QLinearMatMul (a, s, za, b, s, zb, s, za)": UINT8,
    "com.microsoft.DynamicQuantizeMatMul (f, b, s, zb)": FLOAT,
    "com.microsoft.MatMulIntegerToFloat (a, b, s, s, za, zb)": FLOAT,
    "com.microsoft.QGemm <transB = 0> (a, s, za, b, s, zb, , s, zb)": INT8,
    "com.microsoft.QAttention <num_heads = 2> (x, w, bias, s, s)": FLOAT,
    "QuantizeLinear (f, s, zb)": INT8,
    "DequantizeLinear (a, s, za)": FLOAT,
}


@pytest.mark.parametrize("node", CASES)
def test_the_type_of_a_quantized_result(node: str) -> None:
    model = from_text(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (uint8[4,6] a, int8[6,6] b, float[4,6] f, float s, uint8 za, int8 zb,
           uint8[1,4,6] x, uint8[6,18] w, float[18] bias) => (y) {{ y = {node} }}"""
    )
    (result,) = model.graph.outputs
    infer_shapes(model)
    assert result.dtype is CASES[node]
