"""Transposes meet where that leaves fewer, in golden cases and in random graphs; what is computed stays the same."""

from __future__ import annotations

import collections

import hypothesis
import hypothesis.strategies as st
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnxslim.passes.simplify import Simplify
from sample_models import from_text
from story import make_context

from onnxslim.model import canonicalize

f32 = np.float32


def simplified(text, opset=17, **weights):
    model = from_text(f'<ir_version: 8, opset_import: ["" : {opset}]> g {text}', **weights)
    canonicalize(model)
    before = ir.to_proto(model).SerializeToString()
    change = Simplify().run(model, make_context(model))
    assert not [note for note in change.notes if note.reason]
    return before, model


def same(before, model):
    """Return the number of elements compared; both models run on random inputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    sessions = [
        onnxruntime.InferenceSession(each, options, providers=["CPUExecutionProvider"])
        for each in (before, ir.to_proto(model).SerializeToString())
    ]
    random = np.random.default_rng(0)
    feeds = {
        each.name: random.standard_normal([size if isinstance(size, int) else 3 for size in each.shape]).astype(f32)
        for each in sessions[0].get_inputs()
    }
    one, other = (session.run(None, feeds) for session in sessions)
    for wanted, got in zip(one, other, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    return sum(each.size for each in one)


CASES = {
    "they meet behind ops on elements": (
        """(float[N,3,4,5] x) => (float[N,3,4,5] y) {
            a = Transpose <perm = [0,2,3,1]> (x)  b = Sigmoid (a)  c = Mul (b, w)
            y = Transpose <perm = [0,3,1,2]> (c) }""",
        {"w": np.arange(3, dtype=f32)},
        ["Sigmoid", "Mul"],
    ),
    "they meet behind a slope for each channel and a clipping": (
        """(float[N,3,4,5] x) => (float[N,3,4,5] y) {
            a = Transpose <perm = [0,2,3,1]> (x)  b = PRelu (a, w)  c = Clip (b, low)
            y = Transpose <perm = [0,3,1,2]> (c) }""",
        {"w": np.arange(3, dtype=f32), "low": np.float32(-1)},
        ["PRelu", "Clip"],
    ),
    "two meet one": (
        """(float[N,3,4] x, float[N,3,4] z) => (float[N,4,3] y) {
            a = Transpose <perm = [0,2,1]> (x)  b = Transpose <perm = [0,2,1]> (z)
            c = Add (a, b)  y = Relu (c) }""",
        {},
        ["Add", "Transpose", "Relu"],
    ),
    "axes are renamed": (
        """(float[N,3,4] x, float[N,3,4] z) => (float[N,2,4] y) {
            a = Transpose <perm = [0,2,1]> (x)  b = Transpose <perm = [0,2,1]> (z)
            c = Concat <axis = -1> (a, b)  d = Slice (c, one, three, axis)  y = Transpose <perm = [0,2,1]> (d) }""",
        {"one": [1], "three": [3], "axis": [2]},
        ["Concat", "Slice"],
    ),
    "padding is turned": (
        """(float[N,3,4,5] x) => (float[N,4,4,7] y) {
            a = Transpose <perm = [0,2,3,1]> (x)  b = Pad (a, pads)  y = Transpose <perm = [0,3,1,2]> (b) }""",
        {"pads": [0, 0, 2, 1, 0, 0, 0, 0]},
        ["Pad"],
    ),
    "the mean of a split": (
        """(float[N,3,4,5] x) => (float[N,3,4,1] y) {
            a = Transpose <perm = [0,2,3,1]> (x)  b, c = Split <axis = 1> (a)
            d = Concat <axis = 1> (c, b)  e = ReduceMean <axes = [2]> (d)  y = Transpose <perm = [0,3,1,2]> (e) }""",
        {},
        ["Split", "Concat", "ReduceMean"],
    ),
    "as many as before: left alone": (
        """(float[N,3,4] x) => (float[N,4,3] y) { a = Transpose <perm = [0,2,1]> (x)  y = Relu (a) }""",
        {},
        ["Transpose", "Relu"],
    ),
    "softmax stays on the last axis": (
        """(float[N,3,4] x) => (float[N,3,4] y) {
            a = Transpose <perm = [0,2,1]> (x)  b = Softmax <axis = 2> (a)  y = Transpose <perm = [0,2,1]> (b) }""",
        {},
        ["Transpose", "Softmax", "Transpose"],
    ),
    "a vector that is no scale of one element": (
        """(float[N,3,4] x) => (float[N,3,4] y) {
            a = Transpose <perm = [0,2,1]> (x)  b = QuantizeLinear <axis = 2> (a, s)
            c = DequantizeLinear <axis = 2> (b, s)  y = Transpose <perm = [0,2,1]> (c) }""",
        {"s": np.array([0.1, 0.2, 0.3], f32)},
        ["Transpose", "QuantizeLinear", "DequantizeLinear", "Transpose"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_before_and_after(case):
    text, weights, expected = CASES[case]
    before, model = simplified(text, **{name: np.asarray(value) for name, value in weights.items()})
    assert [node.op_type for node in model.graph] == expected
    assert same(before, model)


PERMS = ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])


@st.composite
def graphs(draw):
    """A graph of ops on elements, parts, sums and Transposes over cubes, so that all that is drawn fits."""
    values, lines = ["x", "z"], []
    for number in range(draw(st.integers(3, 14))):
        one, other, name = draw(st.sampled_from(values)), draw(st.sampled_from(values)), f"v{number}"
        perm, axis = draw(st.sampled_from(PERMS)), draw(st.integers(0, 2))
        kind = draw(st.integers(0, 11))
        lines += {
            6: [f"{name} = Add ({one}, {other})"],
            7: [f"{name} = Tanh ({one})"],
            8: [f"{name} = Mul ({one}, w)"],
            9: [
                f"{name}a, {name}b, {name}c = Split <axis = {axis}> ({one})",
                f"{name} = Concat <axis = {axis}> ({name}b, {name}c, {name}a)",
            ],
            10: [f"{name}a = ReduceMax <axes = [{axis}]> ({one})", f"{name} = Sub ({one}, {name}a)"],
            11: [f"{name} = Softmax <axis = {axis}> ({one})"],
        }.get(kind, [f"{name} = Transpose <perm = {perm}> ({one})"])
        values.append(name)
    results = draw(st.lists(st.sampled_from(values[2:]), min_size=1, max_size=3, unique=True))
    told = ", ".join(f"float[3,3,3] {name}" for name in results)
    return f"(float[3,3,3] x, float[3,3,3] z) => ({told}) {{ {'  '.join(lines)} }}"


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(graphs(), st.sampled_from(["vector", "matrix"]))
def test_random_graphs(text, weight):
    random = np.random.default_rng(1)
    w = random.standard_normal(3 if weight == "vector" else (3, 3)).astype(f32)
    before, model = simplified(text, w=w) if "w)" in text else simplified(text)
    count = collections.Counter(node.op_type for node in model.graph)
    assert count["Transpose"] <= text.count("Transpose")
    assert same(before, model)


def test_an_op_of_onnx_runtime_keeps_its_layout():
    """The bias of a BiasGelu is a vector along the last axis, in no other layout."""
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[2,8,5] x) => (float[2,8,5] y) {
            a = Transpose <perm = [0,2,1]> (x)  b = com.microsoft.BiasGelu (a, w)
            y = Transpose <perm = [0,2,1]> (b) }""",
        w=np.linspace(-1, 1, 8, dtype=f32),
    )
    canonicalize(model)
    before = ir.to_proto(model).SerializeToString()
    Simplify().run(model, make_context(model))
    assert [node.op_type for node in model.graph] == ["Transpose", "BiasGelu", "Transpose"]
    assert same(before, model)
