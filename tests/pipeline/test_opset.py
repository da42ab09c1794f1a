"""Bringing a model to a newer operator set: weights stay what they are, and need not pass through the converter."""

from __future__ import annotations

import numpy as np
import onnx.version_converter
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.pipeline import opset
from onnxslim.pipeline.opset import upgraded
from onnxslim.pipeline.reasons import Reason
from onnxslim.runtime.session import Session

TEXT = """<ir_version: 5, opset_import: ["" : 11]>
g (float[N,64] x) => (float[N,1,32] y) { p = MatMul (x, w) y = Unsqueeze <axes = [1]> (p) }"""


def model():
    return from_text(TEXT, w=np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32))


@pytest.mark.parametrize("wanted", [17, 21, 25])
def test_outputs_and_names_stay(wanted):
    before, x = model(), np.ones((2, 64), np.float32)
    after = upgraded(before, wanted)
    assert not isinstance(after, Reason)
    assert after.graph.opset_imports[""] == wanted
    assert [value.name for value in after.graph.inputs] == ["x"]
    assert after.graph.initializers["w"].const_value is before.graph.initializers["w"].const_value
    np.testing.assert_array_equal(*(Session.of(one).run({"x": x})["y"] for one in (before, after)))


def test_the_converter_sees_no_weight(monkeypatch):
    sizes = []
    convert = onnx.version_converter.convert_version
    monkeypatch.setattr(
        onnx.version_converter,
        "convert_version",
        lambda proto, to: sizes.append(proto.ByteSize()) or convert(proto, to),
    )
    upgraded(model())
    assert sizes[0] < 1000


def test_a_model_of_many_constants_is_too_large(monkeypatch):
    monkeypatch.setattr(opset, "LARGEST", 100)
    monkeypatch.setattr(opset, "WEIGHT_BYTES", 1 << 20)
    reason = upgraded(model())
    assert isinstance(reason, Reason)
    assert reason.code.word == "too-large"
    assert isinstance(
        upgraded(from_text(TEXT.replace("Unsqueeze", "Nonsense"), w=np.ones((64, 32), np.float32))), Reason
    )


def test_functions_are_not_lost():
    """The converter leaves them out without a word, and the calls stay."""
    called = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N,4] x) => (float[N,4] y) { y = own.negated (x) }
        <domain: "own", opset_import: ["" : 17]> negated (a) => (b) { b = Neg (a) }"""
    )
    reason = upgraded(called, 20)
    assert isinstance(reason, Reason)
    assert reason.code.word == "functions"
