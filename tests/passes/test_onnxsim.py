from __future__ import annotations

import importlib.util
import types

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes import onnxsim
from onnxslim.passes.onnxsim import Onnxsim
from sample_models import from_text

from onnxslim.errors import OnnxslimError
from onnxslim.model import canonicalize
from onnxslim.pipeline.interface import Kind, Progress

CONTEXT = types.SimpleNamespace(progress=Progress())


def small_model():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x, float[3] w) => (float[2,3] y) {
        a = Identity (x)  b = Mul (w, w)  c = Add (a, b)  y = Relu (c) }""",
        w=np.ones(3, np.float32),
    )
    canonicalize(model)
    return model


def test_simplifies_in_a_child():
    pytest.importorskip("onnxsim")
    model = small_model()
    change = Onnxsim().run(model, CONTEXT)
    assert Onnxsim.kind is Kind.EXACT
    assert change.modified
    assert [note.action for note in change.notes] == ["4 -> 2"]
    assert [node.op_type for node in model.graph] == ["Add", "Relu"]
    ir.to_proto(model)


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        ("import os; os.abort()", "crashed with signal"),
        ("raise ValueError('no luck')", "failed: ValueError: no luck"),
        ("", "it wrote nothing"),
        ("import time; time.sleep(60)", "took longer than"),
        (
            "import sys, onnx; m = onnx.load(sys.argv[1]); m.graph.output[0].name = 'c'; onnx.save(m, sys.argv[2])",
            "changed the outputs from ['y'] to ['c']",
        ),
    ],
)
def test_what_goes_wrong_leaves_the_model_alone(child, reason, monkeypatch):
    monkeypatch.setattr(onnxsim, "CHILD", child)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    model = small_model()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    change = Onnxsim(timeout=1.0 if "sleep" in child else 60.0).run(model, CONTEXT)
    assert not change.modified
    assert [(note.subject, note.action) for note in change.notes] == [("model", "left alone")]
    assert reason in change.notes[0].reason
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_missing_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OnnxslimError, match="not installed") as caught:
        Onnxsim().run(small_model(), CONTEXT)
    assert caught.value.hint == "pip install onnxslim-compiler[onnxsim]"
