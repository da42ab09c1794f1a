"""Signatures fitted to nodes: rows by attribute and rank, sizes of factors, output channels of weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.ops.binding import bind, dimensions, output_channel_axis
from onnxslim.ops.parameters import attribute


def node(text: str, inputs: str, opset: int = 21) -> ir.Node:
    model = from_text(
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>g ({inputs}) => (float y) {{ y = {text} }}'
    )
    model.graph.outputs[0].shape = None
    return next(iter(model.graph))


@pytest.mark.parametrize(
    ("text", "inputs", "index", "axis"),
    [
        ("Conv (x, w, b)", "float[1,4,8,8] x, float[6,4,3,3] w, float[6] b", 1, 0),
        ("Conv (x, w, b)", "float[1,4,8,8] x, float[6,4,3,3] w, float[6] b", 2, 0),
        ("Conv <group=4> (x, w)", "float[1,4,8,8] x, float[8,1,3,3] w", 1, 0),
        ("Conv <group=2> (x, w)", "float[1,4,8] x, float[8,2,3] w", 1, 0),
        ("ConvTranspose (x, w)", "float[1,4,8,8] x, float[4,6,3,3] w", 1, 1),
        ("ConvTranspose <group=2> (x, w)", "float[1,4,8,8] x, float[4,6,3,3] w", 1, None),
        ("Gemm (x, w)", "float[2,4] x, float[4,6] w", 1, 1),
        ("Gemm <transB=1> (x, w)", "float[2,4] x, float[6,4] w", 1, 0),
        ("Gemm <transA=1, transB=1> (x, w)", "float[4,2] x, float[6,4] w", 1, 0),
        ("MatMul (x, w)", "float[2,3,4] x, float[4,6] w", 1, 1),
        ("MatMul (x, w)", "float[2,3,4] x, float[2,4,6] w", 1, 2),
        ("MatMul (w, x)", "float[3,4] w, float[4,6] x", 0, 0),
        ("MatMul (x, w)", "float[3,4] x, float[4] w", 1, None),
        ("QLinearConv (x, s, z, w, s, z, s, z)", "uint8[1,4,8,8] x, float s, uint8 z, uint8[6,4,3,3] w", 3, 0),
        ("Add (x, w)", "float[3,4] x, float[4] w", 1, None),
        ("Conv (x, w)", "float[1,4,8,8] x, float[6,4,3,3] w", 5, None),
        ("CumSum (x, w)", "float[3] x, int64 w", 0, None),
        ("com.microsoft.FusedConv <group=4> (x, w)", "float[1,4,8,8] x, float[8,1,3,3] w", 1, 0),
    ],
)  # fmt: skip
def test_the_axis_of_a_weight_that_reaches_the_output(text: str, inputs: str, index: int, axis: int | None) -> None:
    assert output_channel_axis(node(text, inputs), index) == axis


def test_a_weight_of_unknown_rank_has_no_output_channels() -> None:
    assert output_channel_axis(node("MatMul (x, w)", "float[3,4] x, float w"), 1) is None
    each = node("MatMul (x, w)", "float[3,4] x, float[4,5] w")
    each.inputs[1].shape = None
    assert output_channel_axis(each, 1) is None


def test_rows_are_chosen_by_rank_and_attributes() -> None:
    assert bind(node("MatMul (x, w)", "float[4] x, float[4] w")).signature.outputs[0].dimensions == ()
    assert bind(node("LayerNormalization <axis=2> (x, w)", "float[2,3,4] x, float[4] w")) is not None
    assert bind(node("LayerNormalization <axis=1> (x, w)", "float[2,3,4] x, float[3,4] w")) is not None
    assert (
        bind(node("LSTM <hidden_size=5, layout=1> (x, w, r)", "float[2,3,4] x, float[1,20,4] w, float[1,20,5] r"))
        is not None
    )
    assert bind(node("BatchNormalization (x, s, s, s, s, s)", "float[2,3] x, float[3] s")) is None


def test_sizes_of_factors() -> None:
    fitted = bind(node("Conv <group=2> (x, w)", "float[N,4,8,9] x, float[6,2,3,5] w"))
    assert {letter: fitted.size(letter) for letter in "ngiosk"} == {"n": 1, "g": 2, "i": 2, "o": 3, "s": 72, "k": 15}
    assert fitted.size("4") == 4


def test_attributes_have_the_defaults_of_onnx() -> None:
    each = node("Conv (x, w)", "float[1,4,8,8] x, float[6,4,3,3] w")
    assert attribute(each, "group") == 1
    assert attribute(each, "auto_pad") == "NOTSET"
    assert attribute(each, "strides") is None
    assert attribute(node("Elu <alpha=2.0> (x)", "float[1] x"), "alpha") == 2.0
    assert attribute(node("Conv <strides=[2,2]> (x, w)", "float[1,4,8,8] x, float[6,4,3,3] w"), "strides") == (2, 2)


def test_dimensions_of_values() -> None:
    assert dimensions(ir.Value(name="v")) is None
    assert dimensions(ir.Value(name="v", shape=ir.Shape([2, "N", -1, "8"]))) == (2, None, None, 8)
    assert dimensions(ir.Value(name="v", const_value=ir.tensor(np.zeros((2, 3))))) == (2, 3)
