"""Tries of other strengths on one model: what is found out once holds for what it was found out of, and no more."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from onnxslim.passes.quant import Quant, fed_forward, quantizer
from onnxslim.passes.quant.saturation import Saturation
from onnxslim.passes.quant.weight_only.grids import WeightType
from sample_models import from_text
from story import VNNI, make_context

from onnxslim.data import synthetic_samples

CHAIN = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,16] x) => (float[N,16] y) {
    a = Gemm (x, s, p)  b = Relu (a)  c = Gemm (b, t, q)  d = Relu (c)  e = Gemm (d, u, r)  f = Relu (e)
    y = Gemm (f, v, o) }"""
REDUCED = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,4,8,8] x) => (float[N,4,8,8] y) {
    m = ReduceMean <axes = [2, 3], keepdims = 1> (x)  c = Sub (x, m)
    a = Conv <pads = [1, 1, 1, 1]> (c, s, p)  b = Relu (a)  d = Conv <pads = [1, 1, 1, 1]> (b, t, q)  e = Relu (d)
    y = Conv <pads = [1, 1, 1, 1]> (e, u, r) }"""


def chain():
    generator = np.random.default_rng(0)
    matrices = {name: generator.normal(size=(16, 16)).astype(np.float32) / 4 for name in "stuv"}
    vectors = {name: generator.normal(size=16).astype(np.float32) for name in "pqro"}
    return from_text(CHAIN, **matrices, **vectors), generator.normal(size=(64, 16)).astype(np.float32)


def bits(change):
    return {layer.layer: f"int{layer.after}" for layer in change.layers if layer.quantity == "bits"}


@pytest.mark.parametrize("saturation", [Saturation.IGNORE, Saturation.PAIRS])
def test_each_try_writes_the_bits_that_its_table_tells(saturation, monkeypatch):
    monkeypatch.setattr(quantizer, "MUCH", 0.0)
    monkeypatch.setattr(fed_forward.QuantizedCopies, "error", decreasing(fed_forward.QuantizedCopies.error))
    model, data = chain()
    context = make_context(model, {"x": data}, target=VNNI)
    strong = Quant(weights=WeightType.INT4, saturation=saturation, error=0.9, equalize=False)
    found = []
    for step in (strong, dataclasses.replace(strong, error=0.2), dataclasses.replace(strong, error=0.02)):
        after = model.clone()
        change = step.run(after, context)
        assert bits(change) == {row.layer: row.became for row in change.sensitivity if row.became != "float"}
        found.append(sum(row.became == "int8" for row in change.sensitivity))
    assert found[0] < found[1] <= found[2], "more layers have 8 bits, or there is nothing to see here"


def decreasing(error):
    """Return an error that falls from call to call: whatever is tried is better."""
    calls = []

    def measured(self, *given):
        calls.append(None)
        return error(self, *given) / 2 ** len(calls)

    return measured


def test_a_try_at_another_operator_set_finds_out_anew():
    generator = np.random.default_rng(0)
    weights = {
        name: generator.normal(size=(4, 4, 3, 3)) * np.geomspace(1, 30, 4)[:, None, None, None] for name in "stu"
    }
    vectors = {name: generator.normal(size=4) for name in "pqr"}
    model = from_text(REDUCED, **{name: array.astype(np.float32) for name, array in {**weights, **vectors}.items()})
    context = make_context(model, {"x": generator.normal(size=(32, 4, 8, 8)).astype(np.float32)}, target=VNNI)
    strong = Quant(target="qnn", float_time=0.0)
    for step in (strong, dataclasses.replace(strong, error=0.5)):
        after = model.clone()
        assert step.run(after, context).modified


def test_a_model_without_weights_has_no_size_to_keep():
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,2,8] a, float[N,8,2] b) => (float[N,2,2] y) {
        y = MatMul (a, b) }"""
    model = from_text(text)
    context = make_context(model, synthetic_samples(model, 16), target=VNNI)
    assert Quant(target="qdq").run(model, context).modified
