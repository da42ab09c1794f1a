"""What the pass does beside its rules; and real models, before and after, on random inputs."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnxslim.passes.simplify import Simplify, rounds
from sample_models import from_text
from story import make_context
from zoo import zoo_file

from onnxslim.model import canonicalize, open_model, save_model, weight_bytes
from onnxslim.pipeline.interface import Goal
from onnxslim.rewrite.site_check import SiteCheck

f32 = np.float32


def test_equal_initializers():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g
        (float[2,2] x, float[2,2] a, float[2,2] b, float[2,2] c, float[2] d, float[2] e,
        string[1] s, string[1] t, string[1] u)
        => (float[2,2] y, bool[1] z) {
            p = MatMul (x, a)  q = MatMul (p, b)  r = MatMul (q, c)  v = Div (r, d)  y = Sub (v, e)
            f = Concat <axis = 0> (s, u)  h = Concat <axis = 0> (t, u)  z = Equal (f, h) }""",
        a=np.eye(2, dtype=f32),
        b=np.eye(2, dtype=f32),
        c=2 * np.eye(2, dtype=f32),
        d=np.ones(2, f32),
        e=np.ones(2, f32),
        s=np.array(["k"], dtype=object),
        t=np.array(["k"], dtype=object),
    )
    canonicalize(model)
    assert rounds.merge_equal_initializers(model) == 2
    assert set(model.graph.initializers) == {"a", "c", "d", "e", "s"}


def test_a_step_that_raises_is_noted_and_left_out(monkeypatch):
    def broken(model):
        raise ValueError("of all things")

    monkeypatch.setattr(rounds, "STEPS", (("broken", broken), *rounds.STEPS))
    monkeypatch.setattr(rounds, "fixpoint", lambda *a, **k: broken(None))
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { a = Identity (x)  y = Relu (a) }'
    )
    canonicalize(model)
    change = Simplify().run(model, make_context(model))
    assert change.modified
    left = {note.subject: note.reason for note in change.notes if note.action == "left alone"}
    assert left == {"broken": "ValueError: of all things", "rules": "ValueError: of all things"}


def test_nothing_to_do():
    model = from_text('<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { y = Relu (x) }')
    canonicalize(model)
    change = Simplify().run(model, make_context(model))
    assert not change.modified
    assert change.notes == ()


def test_other_domains_and_unused_opsets():
    model = from_text("""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1, "ai.onnx.ml" : 3, "f" : 1]>
        g (float[N] x) => (float[N] y) {
        a = com.microsoft.Gelu (x)  b = Relu (a)  y = Relu (b) }
        <domain: "f", opset_import: ["" : 17]> unused (x) => (y) { y = Relu (x) }""")
    canonicalize(model)
    Simplify().run(model, make_context(model))
    assert dict(model.opset_imports) == {"": 17, "com.microsoft": 1}
    assert not model.functions
    assert [node.op_type for node in model.graph] == ["Gelu", "Relu"]


def test_verify_notes_what_differs(monkeypatch):
    monkeypatch.setattr(rounds, "check_site", lambda match, plan, generator: SiteCheck(True, "y differs"))
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) { a = Relu (x)  y = Relu (a) }'
    )
    canonicalize(model)
    change = Simplify().run(model, make_context(model, verify=True))
    assert [(note.subject, note.action, note.reason) for note in change.notes] == [
        ("verify", "0 sites equal on random data", ""),
        ("twice_is_once_relu at Relu", "left alone", "y differs"),
    ]


def session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.mark.zoo
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    ("parts", "nodes"),
    [
        (("onnx", "cifar10_resnet20.onnx"), (114, 55)),
        (("onnx", "cifar10_resnet56.onnx"), (240, 145)),
        (("fashion", "resnet8.onnx"), (33, 22)),
    ],
)
def test_real_models(parts, nodes, verify, tmp_path):
    path = zoo_file(*parts)
    model = open_model(path)
    before = len(model.graph)
    change = Simplify().run(model, make_context(model, verify=verify))
    assert not [note for note in change.notes if note.action == "left alone"]
    assert (before, len(model.graph)) <= nodes
    save_model(model, tmp_path / "after.onnx")
    sessions = session(path), session(tmp_path / "after.onnx")
    (given,) = sessions[0].get_inputs()
    shape = [size if isinstance(size, int) else 3 for size in given.shape]
    feeds = {given.name: np.random.default_rng(0).normal(size=shape).astype(f32)}
    (expected,), (got,) = (each.run(None, feeds) for each in sessions)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())  # as the issue demands


@pytest.mark.parametrize("goal", list(Goal))
def test_a_tied_weight_is_not_stored_twice(goal):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,160] x) => (float[N,160] y) {
        a = MatMul (x, w)  t = Transpose <perm = [1,0]> (w)  s = Mul (t, two)  y = MatMul (a, s) }"""
    model = from_text(text, w=np.random.default_rng(0).random((160, 160)).astype(f32), two=np.array(2, f32))
    canonicalize(model)
    before = weight_bytes(model)
    Simplify().run(model, make_context(model, goal=goal))
    assert weight_bytes(model) <= before


def test_for_the_size_nothing_is_folded_that_makes_a_file_larger(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,64] y) {
        shape = Constant <value_ints = [64, 64]> ()  ones = ConstantOfShape (shape)
        t = Trilu (ones)  y = MatMul (x, t) }"""
    sizes = {}
    for goal in Goal:
        model = from_text(text)
        canonicalize(model)
        Simplify().run(model, make_context(model, goal=goal))
        save_model(model, tmp_path / f"{goal.value}.onnx")
        sizes[goal] = (tmp_path / f"{goal.value}.onnx").stat().st_size
    assert sizes[Goal.SIZE] < 1000 < 16_000 < sizes[Goal.LATENCY]
