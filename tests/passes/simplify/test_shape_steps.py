"""Shape chains collapse as far as the algebra proves, and no further."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxslim.passes.simplify.rounds as rounds
import pytest
from onnx_ir.serde import serialize_model

from onnxslim.analysis.inference import Inference
from onnxslim.analysis.shapes import infer_shapes


def ops(text: str, **weights: object) -> list[str]:
    model = ir.from_onnx_text(f'<ir_version: 9, opset_import: ["": 18]> g {text}')
    for name, array in weights.items():
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(np.asarray(array), name=name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    known = Inference(model)
    for _ in range(3):
        infer_shapes(model, known)
        for _, shape_step in rounds.SHAPE_STEPS:
            shape_step(model, known)
        for _, step in rounds.STEPS:
            step(model)
    assert serialize_model(model).graph.node
    return [node.op_type for node in model.graph]


CASES = {
    "sizes one by one are a shape": (
        """(int64[N,M] x, float[1,512] p, int64[1] zero, int64[1] one) => (float[N,P] y) {
            s = Shape (x)  n = Gather (s, zero)  t = Shape (x)  m = Gather (t, one)
            q = Concat <axis = 0> (n, m)  y = Expand (p, q) }""",
        {"zero": [0], "one": [1]},
        ["Shape", "Expand"],
    ),
    "one size is a part of a shape": (
        """(int64[N,M] x, int64[1] one, int64[1] z) => (float[M] y) {
            s = Shape (x)  m = Gather (s, one)  a = Unsqueeze (m, z)  y = ConstantOfShape (a) }""",
        {"one": 1, "z": [0]},
        ["Shape", "ConstantOfShape"],
    ),
    "a slice of all": (
        """(float[N,M] x, int64[1] zero, int64[1] one) => (float[N,M] y) {
            s = Shape (x)  m = Gather (s, one)  a = Slice (x, zero, m, one)  y = Relu (a) }""",
        {"zero": [0], "one": [1]},
        ["Relu"],
    ),
    "a slice of another length": (
        """(float[N,M] x, int64[1] zero, int64[1] one) => (float[N,P] y) {
            s = Shape (x)  m = Gather (s, zero)  a = Slice (x, zero, m, one)  y = Relu (a) }""",
        {"zero": [0], "one": [1]},
        ["Shape", "Slice", "Relu"],
    ),
    "an expansion that broadcasting of bits does": (
        """(int64[N,1] x, int64[N,M] z) => (int64[N,M] y) {
            s = Shape (z)  a = Expand (x, s)  y = BitwiseAnd (a, z) }""",
        {},
        ["BitwiseAnd"],
    ),
    "a slope is widened by its data, which it does not widen": (
        """(float[N,1] x, float[N,M] z) => (float[N,M] y) { s = Shape (z)  a = Expand (x, s)  y = PRelu (a, z) }""",
        {},
        ["Shape", "Expand", "PRelu"],
    ),
    "an expansion that broadcasting does": (
        """(float[N,1] x, float[N,M] z) => (float[N,M] y) { s = Shape (z)  a = Expand (x, s)  y = Mul (a, z) }""",
        {},
        ["Mul"],
    ),
    "an expansion that widens the result": (
        """(float[N,1] x, float[N,M] z) => (float[N,M] y) { s = Shape (z)  a = Expand (x, s)  y = Mul (a, x) }""",
        {},
        ["Shape", "Expand", "Mul"],
    ),
    "parts without elements": (
        """(float[N,3] x, int64[1] zero) => (float[N,3] y) {
            s = Shape <start = 0, end = 1> (x)  t = Concat <axis = 0> (s, zero)  e = ConstantOfShape (t)
            c = Concat <axis = 1> (e, x)  y = Relu (c) }""",
        {"zero": [0]},
        ["Relu"],
    ),
    "slices of two axes": (
        """(float[N,8,9] x, int64[1] one, int64[1] two, int64[1] four) => (float[N,3,2] y) {
            a = Slice (x, one, four, one)  y = Slice (a, two, four, two) }""",
        {"one": [1], "two": [2], "four": [4]},
        ["Slice"],
    ),
    "slices of one axis": (
        """(float[N,8] x, int64[1] one, int64[1] four) => (float[N,2] y) {
            a = Slice (x, one, four, one)  y = Slice (a, one, four, one) }""",
        {"one": [1], "four": [4]},
        ["Slice", "Slice"],
    ),
    "states of zeros": (
        """(float[S,N,4] x, float[1,8,4] w, float[1,8,2] r, int64[1] one, int64[1] e) => (float[S,1,N,2] y) {
            s = Shape <start = 1, end = 2> (x)  t = Concat <axis = 0> (one, s, e)  h = ConstantOfShape (t)
            y = LSTM <hidden_size = 2> (x, w, r, , , h, h) }""",
        {"one": [1], "e": [2]},
        ["LSTM"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_shape_chains_collapse(case: str) -> None:
    text, weights, after = CASES[case]
    assert ops(text, **weights) == after
