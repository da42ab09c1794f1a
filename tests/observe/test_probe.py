"""Copies of a model that compute some of its values."""

from __future__ import annotations

import numpy as np
from sample_models import from_text

from onnxslim.data import Batch
from onnxslim.observe.probe import Probe, stream_values, truncated
from onnxslim.runtime.session import Session

TEXT = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,2] x, float[2] c) => (float[N,2] y) {
    a = Add (x, c) b = Relu (a) y = Neg (b) }"""


def model():
    made = from_text(TEXT, c=np.ones(2, np.float32))
    made.graph.inputs.append(made.graph.initializers["c"])
    return made


def test_a_truncated_model_computes_nothing_else() -> None:
    whole = model()
    short = truncated(whole, ["a", "x"])
    assert [node.op_type for node in short.graph] == ["Add"]
    assert [value.name for value in short.graph.outputs] == ["a", "x"]
    assert len(list(whole.graph)) == 3


def test_values_are_streamed_beside_inputs_and_their_defaults() -> None:
    batches = [Batch({"x": np.full((count, 2), count, np.float32)}, count=count) for count in (1, 3)]
    found = list(stream_values(model(), ["b", "x", "c"], batches, Session.of))
    assert [batch.count for batch, _ in found] == [1, 3]
    for batch, values in found:
        assert set(values) == {"b", "x", "c"}
        np.testing.assert_array_equal(values["b"], batch.feeds["x"] + 1)


def test_equal_constants_are_one() -> None:
    probe = Probe(model())
    one = probe.constant(np.float32(1))
    assert probe.constant(np.array(1, np.float32)) is one
    assert probe.constant(np.array([1], np.float32)) is not one
    assert probe.constant(1) is not one
