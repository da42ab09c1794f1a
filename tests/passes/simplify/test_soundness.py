"""What looks like a chance to simplify and is none: pairs of models and inputs that once came out wrong, or nearly."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnxslim.passes.simplify import Simplify
from sample_models import from_text
from story import make_context

from onnxslim.model import canonicalize

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)

CASES: dict[str, tuple[str, dict[str, object], dict[str, object], list[str]]] = {
    "both sides are widened": (
        "(float[1,3] x) => (float[2,3] y) { e = Expand (x, s)  y = Add (e, e) }",
        {"s": [2, 3]},
        {"x": X[:1, :, 0]},
        ["Expand", "Add"],
    ),
    "a number that rounds": (
        "(float[2,3,4] x) => (float[2,3,4] y) { a = Add (x, m)  y = Sub (a, m) }",
        {"m": np.float32(12582912)},
        {"x": X},
        ["Add", "Sub"],
    ),
    "integers are regrouped, however large": (
        "(int64[3] x) => (int64[3] y) { a = Add (x, m)  y = Sub (a, m) }",
        {"m": [10**12]},
        {"x": np.arange(3)},
        ["Identity"],
    ),
    "digits of a string": (
        "(float16[2] x) => (string[2] y) { a = Cast <to = 11> (x)  y = Cast <to = 8> (a) }",
        {},
        {"x": np.array([0.1, 1 / 3], np.float16)},
        ["Cast", "Cast"],
    ),
    "no axes are all axes": (
        "(float[2,3,4] x) => (float[] y) { a = ReduceSum (x, none)  y = Squeeze (a, none) }",
        {"none": np.zeros(0, np.int64)},
        {"x": X},
        ["ReduceSum", "Squeeze"],
    ),
    "reflected twice": (
        """(float[4] x) => (float[8] y) {
            a = Pad <mode = "reflect"> (x, border)  y = Pad <mode = "reflect"> (a, border) }""",
        {"border": [1, 1]},
        {"x": X[0, 0]},
        ["Pad", "Pad"],
    ),
    "a mean that rounds its windows up": (
        """(float[1,1,5,5] x) => (float[1,1,H,W] y) {
            a = Pad (x, border)  y = AveragePool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (a) }""",
        {"border": [0, 0, 1, 1, 0, 0, 1, 1]},
        {"x": np.ones((1, 1, 5, 5), np.float32)},
        ["Pad", "AveragePool"],
    ),
    "integers round when they are divided": (
        "(int64[3] x) => (int64[3] y) { a = Mul (x, three)  y = Div (a, two) }",
        {"three": [3], "two": [2]},
        {"x": np.array([-5, 3, 7])},
        ["Mul", "Div"],
    ),
    "names that two branches share": (
        """(float[2,3,4] x, bool c) => (float[2,3,4] y) { y = If (c) <
            then_branch = t () => (float[2,3,4] q) { k = Relu (x)  l = Relu (k)  q = Neg (l) },
            else_branch = e () => (float[2,3,4] q) { k = Neg (x)  q = Neg (k) }> }""",
        {},
        {"x": X, "c": np.array(True)},
        ["If", "Relu", "Neg", "Identity"],
    ),
    "no elements at all": (
        "(float[0,3] x) => (float[0,3] y) { a = Add (x, zero)  y = Relu (a) }",
        {"zero": np.zeros((1, 3), np.float32)},
        {"x": np.zeros((0, 3), np.float32)},
        ["Relu"],
    ),
    "a shape that is declared wrongly": (
        "(float[N,3] x) => (float[N,3] y) <float[3,2] a> { a = Relu (x)  y = Relu (a) }",
        {},
        {"x": X[:, :, 0]},
        ["Relu"],
    ),
}


def outputs(proto: onnx.ModelProto, feeds: dict[str, object]) -> list[object]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.mark.parametrize("case", CASES)
def test_means_the_same(case: str) -> None:
    text, weights, feeds, after = CASES[case]
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    model = from_text(f'<ir_version: 8, opset_import: ["" : 17]> g {text}', **arrays)
    canonicalize(model)
    before = outputs(ir.to_proto(model), feeds)
    Simplify().run(model, make_context(model))
    assert [node.op_type for node in model.graph.all_nodes()] == after
    for one, other in zip(before, outputs(ir.to_proto(model), feeds), strict=True):
        np.testing.assert_array_equal(one, other)
