"""Nodes that have no gradient though their op has one say so, and why."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.errors import NotDifferentiable

REFUSED = {
    "ScatterElements: an update that is overwritten": (
        "float[4] x, float[2] u",
        "int64[2] i = {1, 1}",
        "y = ScatterElements <axis=0> (x, i, u)",
        "writes a place twice",
    ),
    "ScatterElements: the same place, counted from either end": (
        "float[4] x, float[2] u",
        "int64[2] i = {3, -1}",
        'y = ScatterElements <axis=0, reduction="mul"> (x, i, u)',
        "writes a place twice",
    ),
    "ScatterND: an update that is overwritten": (
        "float[4] x, float[2] u",
        "int64[2,1] i = {2, 2}",
        "y = ScatterND (x, i, u)",
        "writes a place twice",
    ),
    "ScatterND: factors that may meet": (
        "float[4] x, float[2] u, int64[2,1] i",
        "",
        'y = ScatterND <reduction="mul"> (x, i, u)',
        "some of which may be the same",
    ),
    "Pad: more than there is": (
        "float[1,1] x",
        "int64[4] p = {1, 0, 0, 0}",
        'y = Pad <mode="reflect"> (x, p)',
        "more of an axis than there is",
    ),
    "Slice: where to begin is computed": (
        "float[4] x, int64[1] s",
        "int64[1] e = {4}",
        "y = Slice (x, s, e)",
        "not known before the model runs",
    ),
    "Compress": ("float[4] x, bool[4] c", "", "y = Compress (x, c)", "Compress y has no gradient"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_node_without_a_gradient_says_why(case: str) -> None:
    inputs, constants, body, why = REFUSED[case]
    stored = f"<{constants}>" if constants else ""
    text = f'<ir_version: 10, opset_import: ["": 18]> g ({inputs}, float seed) => (float[N] y) {stored} {{ {body} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    *values, seed = model.graph.inputs
    real = [value for value in values if value.dtype is ir.DataType.FLOAT]
    build = graph_builder(model)
    seed.shape = model.graph.outputs[0].shape
    with pytest.raises(NotDifferentiable, match=why):
        build_gradients(build, {model.graph.outputs[0]: seed}, real)
