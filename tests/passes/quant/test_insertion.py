"""Multiplications that bring factors of channels in: where nothing else can, and where int8 then costs less."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxslim.passes.quant import Quant, quantizer
from onnxslim.passes.quant.equalisation import EqualChannels
from onnxslim.passes.quant.insertion import Insertion, insertions
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.scales import Calibration
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.weights import Rounding
from sample_models import from_text
from story import HERE, make_context, nodes_of

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.session import Session

BLOCK = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,6,16] x) => (float[N,6,16] y) {
    n = LayerNormalization <axis = -1> (x, s, b)
    q = MatMul (n, wq)  k = MatMul (n, wk)  t = Tanh (q)  a = Mul (t, k)
    r = Add (a, n)  m = LayerNormalization <axis = -1> (r, z)  e = Erf (m)  y = MatMul (e, wo) }"""


def block(outlier: float) -> ir.Model:
    """Return half a block of a transformer, in which a few channels are far wider than all others."""
    generator = np.random.default_rng(0)
    sizes = {"s": (16,), "b": (16,), "wq": (16, 16), "wk": (16, 16), "z": (16,), "wo": (16, 16)}
    weights = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    weights["s"][[3, 9]] *= outlier
    for name in ("wq", "wk"):
        weights[name][[3, 9]] /= outlier
    return from_text(BLOCK, **weights)


def test_values_that_floats_make_and_products_read_have_places() -> None:
    model = block(30)
    infer_shapes(model)
    found = insertions(EqualChannels(model).found, make_plan(model, load_table("cpu")))
    assert found == {"n": Insertion(-1, 16, ("q", "k")), "e": Insertion(-1, 16, ("y",))}
    assert insertions(EqualChannels(model).found, make_plan(model, load_table("cpu")), {"n"}).keys() == {"e"}


def test_what_has_factors_anyway_needs_no_multiplication() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,6,16] x) => (float[N,6,4] y) {
        n = LayerNormalization <axis = -1> (x, s)  y = MatMul (n, w) }"""
    model = from_text(text, s=np.ones(16, np.float32), w=np.ones((16, 4), np.float32))
    infer_shapes(model)
    channels = EqualChannels(model)
    assert channels.count == 16
    assert not insertions(channels.found, make_plan(model, load_table("cpu")))


def test_a_multiplication_is_read_by_the_products_alone() -> None:
    model = block(30)
    assert Insertion(-1, 16, ("q", "k")).insert(model, "n") == "n_scaled"
    assert nodes_of(model.graph)[:4] == [
        "n = LayerNormalization <axis = -1> (x, s[16], b[16])",
        "n_scaled = Mul (n, n_factors[16])",
        "q = MatMul (n_scaled, wq[16, 16])",
        "k = MatMul (n_scaled, wk[16, 16])",
    ]
    assert "r = Add (a, n)" in nodes_of(model.graph)
    images = from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,4,4] x) => (float[N,2,4,4] y) {'
        " t = Tanh (x)  y = Conv (t, w) }",
        w=np.ones((2, 3, 1, 1), np.float32),
    )
    assert Insertion(-3, 3, ("y",)).insert(images, "t") == "t_scaled"
    factors = images.graph.initializers["t_factors"].const_value
    assert factors is not None
    assert factors.shape == (3, 1, 1)


def test_wide_channels_go_into_the_weights() -> None:
    model = block(30)
    rows = np.random.default_rng(1).normal(size=(128, 6, 16)).astype(np.float32)
    errors = []
    for equalize in (False, True):
        after = model.clone()
        step = Quant(equalize=equalize, calibration=Calibration.MINMAX, rounding=Rounding.NEAREST, float_time=0.0)
        change = step.run(after, make_context(model, {"x": rows[:64]}, target=HERE))
        before, got = (Session.of(either, HERE).run({"x": rows[64:]})["y"] for either in (model, after))
        errors.append(float(np.square(got - before).sum()))
    assert errors[1] < errors[0] / 10
    (note,) = [note for note in change.notes if note.subject == "channels"]
    assert note.action.startswith("16 equalised; multiplications inserted: 1")
    # Multiplications in float, in front of the levels that products read.
    made = [node for node in after.graph if node.op_type == "Mul" and (node.outputs[0].name or "").endswith("_scaled")]
    assert [use.node.op_type for node in made for use in node.outputs[0].uses()] == ["QuantizeLinear"] * len(made)


def test_factors_alone_are_taken_where_multiplications_bring_too_little(monkeypatch) -> None:
    monkeypatch.setattr(quantizer, "WORTH_INSERTING", 0.0)
    text = BLOCK.replace("y = MatMul (e, wo) }", "u = Relu (f)  y = MatMul (u, wo) }").replace(
        "e = Erf (m)", "e = Erf (m)  f = MatMul (e, wf)"
    )
    generator = np.random.default_rng(2)
    spread = np.geomspace(1, 100, 16).astype(np.float32)
    weights = {
        name: value.const_value.numpy() for name, value in block(30).graph.initializers.items() if value.const_value
    }
    weights["wf"] = generator.normal(size=(16, 16)).astype(np.float32) * spread
    weights["wo"] = weights["wo"] / spread[:, None]
    model = from_text(text, **weights)
    rows = generator.normal(size=(64, 6, 16)).astype(np.float32)
    step = Quant(calibration=Calibration.MINMAX, rounding=Rounding.NEAREST, float_time=0.0)
    change = step.run(model, make_context(model, {"x": rows}, target=HERE))
    (note,) = [note for note in change.notes if note.subject == "channels"]
    assert note.action.endswith("equalised")
    assert not [node for node in model.graph if (node.outputs[0].name or "").endswith("_scaled")]
