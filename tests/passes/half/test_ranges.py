"""Which values fit, op by op: what is seen of them, and of constants, decides."""

from __future__ import annotations

import numpy as np
import pytest
from onnxslim.passes.half import Half, Inner
from sample_models import from_text
from story import make_context

from onnxslim.errors import RunError
from onnxslim.model import canonicalize
from onnxslim.pipeline.interface import NoteKind
from onnxslim.runtime.target import Target

CPU = Target("cpu", "a processor", "avx2", 1)
HEAD = '<ir_version: 9, opset_import: ["" : 17]>'


def weight(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def left(text, x, weights, **fields):
    """Returns the codes of what stays in float32."""
    model = from_text(f"{HEAD} g {text}", **weights)
    canonicalize(model)
    change = Half(activations=Inner.HALF).run(model, make_context(model, {"x": x}, target=CPU, **fields))
    return {note.subject: note.code for note in change.notes if note.kind is NoteKind.LEFT_ALONE}


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize(
    "node",
    ["r = ReduceL2 <axes = [2, 3]> (x)", "r = InstanceNormalization (x, s, s)", "r = LpNormalization <axis = 1> (x)"],
)
def test_squares_inside_an_op_are_held_to_the_range(node, scale):
    text = f"(float[N,4,8,8] x) => (float[] y, float[] t) {{ {node} y = Mul (r, c) t = Neg (s) }}"
    x = np.full((2, 4, 8, 8), scale, np.float32) * np.sign(weight(2, 4, 8, 8))
    found = left(text, x, {"s": np.ones(4, np.float32), "c": np.float32([0.5])})
    assert found.get("r") == ("sum-overflow" if scale > 1 else None)


def test_what_is_infinite_or_nan_on_the_samples_stays():
    text = "(float[N,4] x) => (float[N,4] y) { l = Log (x) z = Mul (l, c) y = MatMul (z, w) }"
    found = left(text, np.float32([[0, 1, 2, 3]]), {"c": np.float32([0.5]), "w": weight(4, 4)})
    assert found["l"] == "not-finite"
    assert found["z"] == "not-finite"


def test_empty_values_fit():
    text = """(float[N,4] x) => (float[N,4] y, float[0,4] e) {
        h = MatMul (x, w) e = Slice (h, zero, zero, zero) y = Relu (h) }"""
    assert not left(text, weight(2, 4), {"w": weight(4, 4), "zero": np.array([0])})


@pytest.mark.parametrize(
    ("body", "constant", "code"),
    [
        ("a = Mul (x, k)", np.arange(4, dtype=np.float32) * 1025, "count"),
        ("a = Mul (x, k)", np.arange(4, dtype=np.float32) * 1024, None),
        ("a = Mul (x, k)", np.float32([3e5]), "overflow"),
        ("a = Mul (x, k)", np.float32([3e-7]), "underflow"),
        ("a = Div (x, k)", np.float32([1, 1, 1, 3e-6]), "small-divisor"),
        ("a = Add (x, k)", np.float32([3e-7]), None),
        ("a = Max (x, k)", np.float32([3e-7]), None),
        ("a = Min (x, k)", np.float32([1e9]), None),
        ("a = Mul (x, k)", np.float32([np.inf, 1, 1, 1]), "not-finite"),
    ],
)
def test_constants(body, constant, code):
    text = f"(float[N,4] x) => (float[N,4] y) {{ h = MatMul (x, w) {body.replace('(x', '(h')} y = MatMul (a, w) }}"
    found = left(text, np.abs(weight(8, 4)) + 1, {"k": constant, "w": np.abs(weight(4, 4))})
    assert found.get("a") == code


def test_a_model_whose_values_cannot_be_seen_is_stored_only(monkeypatch):
    def refuse(*given, **named):
        raise RunError("no memory")

    monkeypatch.setattr("onnxslim.passes.half.observe", refuse)
    model = from_text(f"{HEAD} g (float[N,8] x) => (float[N,8] y) {{ y = MatMul (x, w) }}", w=weight(8, 8))
    canonicalize(model)
    change = Half(activations=Inner.HALF).run(model, make_context(model, {"x": weight(2, 8)}, target=CPU))
    note = next(note for note in change.notes if note.subject == "inner values")
    assert (note.code, note.reason) == ("not-observed", "its ranges cannot be observed: no memory")
    assert model.graph.initializers["w"].const_value.numpy().dtype == np.float16
