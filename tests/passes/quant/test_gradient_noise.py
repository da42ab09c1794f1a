"""Gradients estimate what rounding one part costs the outputs: exactly, where all behind it is linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.gradient_noise import noise_by_gradients
from onnxslim.passes.quant.integers import IntegerType
from onnxslim.passes.quant.rounded import Part
from onnxslim.passes.quant.scales import Scale
from onnxslim.passes.quant.sensitivity import Sensitivity, noise_of_parts
from sample_models import from_text
from story import VNNI, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import NotDifferentiable
from onnxslim.pipeline.interface import Change, Context

TYPES = {"int8": IntegerType(8, True), "int4": IntegerType(4, True), "uint2": IntegerType(2, False)}
MACS = 1000


def rounded(array: np.ndarray, step: float) -> np.ndarray:
    return (np.round(array / step) * step).astype(np.float32)


def both(model: ir.Model, parts: list[Part], context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Return what rounding each part costs: measured, and by gradients."""
    return np.array(noise_of_parts(model, parts, MACS, context)), np.array(
        noise_by_gradients(model, parts, MACS, context)
    )


def linear(seed: int, last: int) -> tuple[ir.Model, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return two products in a row, their weights, and samples."""
    random = np.random.default_rng(seed)
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in
               {"u": (5, 7), "b": (7,), "v": (7, last)}.items()}  # fmt: skip
    text = f"""<ir_version: 9, opset_import: ["" : 21]> g (float[N,5] x) => (float[N,{last}] y) {{
        a = MatMul (x, u)  s = Add (a, b)  y = MatMul (s, v) }}"""
    model = from_text(text, **weights)
    infer_shapes(model)
    return model, weights, {"x": random.standard_normal((8, 5)).astype(np.float32)}


@given(st.integers(0, 1000), st.sampled_from(sorted(TYPES)))
@settings(max_examples=5, deadline=None)
def test_behind_what_is_rounded_all_is_linear_and_there_is_one_output(seed: int, integers: str) -> None:
    model, weights, feeds = linear(seed, 1)
    values = {value.name: value for node in model.graph for value in node.outputs}
    tensors = [(values[name], Scale.covering(-3.0, 3.0, TYPES[integers], False)) for name in ("a", "s")]
    parts: list[Part] = [{"u": rounded(weights["u"], 0.3)}, {"v": rounded(weights["v"], 0.3)}, *tensors]
    measured, estimated = both(model, parts, make_context(model, feeds, target=VNNI))
    np.testing.assert_allclose(estimated, measured, rtol=1e-3)
    assert (measured > 1e-5).all()


def test_many_outputs_are_summed_up_along_random_directions() -> None:
    model, weights, feeds = linear(3, 9)
    parts: list[Part] = [{"u": rounded(weights["u"], step)} for step in (0.1, 0.5, 1.0)]
    measured, estimated = both(model, parts, make_context(model, feeds, target=VNNI))
    np.testing.assert_allclose(estimated, measured, rtol=0.5)
    assert sorted(estimated) == list(estimated)


def test_outputs_count_alike_however_large_they_are() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,1] y, float[N,1] z, int64[N,1] i) {
        y = MatMul (x, u)  a = MatMul (x, v)  z = Mul (a, k)  i = Cast <to = 7> (y) }"""
    random = np.random.default_rng(0)
    u, v = (random.standard_normal((4, 1)).astype(np.float32) for _ in range(2))
    model = from_text(text, u=u, v=v, k=np.float32(1e4))
    infer_shapes(model)
    parts: list[Part] = [{"u": rounded(u, 0.5)}, {"v": rounded(v, 0.5)}]
    feeds = {"x": random.standard_normal((8, 4)).astype(np.float32)}
    measured, estimated = both(model, parts, make_context(model, feeds, target=VNNI))
    np.testing.assert_allclose(estimated, measured, rtol=1e-3)


NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,6,6] x) => (float[N,8,6,6] y) {
    a = Conv (x, u)  p = Relu (a)  b = Conv (p, v)  q = Relu (b)  c = Conv (q, w)  r = Relu (c)
    y = Conv (r, k) }"""


def net() -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Return four convolutions of which the second sees one value three hundred times as large as all others."""
    random = np.random.default_rng(0)

    def weight(outputs: int, inputs: int) -> np.ndarray:
        return (random.normal(size=(outputs, inputs, 1, 1)) / np.sqrt(inputs)).astype(np.float32)

    first, second = weight(16, 3), weight(16, 16)
    first[0] *= 300
    second[:, 0] /= 300
    model = from_text(NET, u=first, v=second, w=weight(32, 16), k=weight(8, 32))
    return model, {"x": random.normal(size=(32, 3, 6, 6)).astype(np.float32)}


def quantized(model: ir.Model, feeds: dict[str, np.ndarray], **options: Any) -> Change:
    after = model.clone()
    infer_shapes(after)
    return Quant(**options).run(after, make_context(model, feeds, target=VNNI))


def test_both_ways_leave_the_same_layers_in_float() -> None:
    model, feeds = net()
    found = [quantized(model, feeds, error=0.5, sensitivity=how) for how in Sensitivity]
    left = [{note.subject for note in change.notes if "of the error" in note.reason} for change in found]
    assert left[0] == left[1] != set()
    assert found[0].layers == found[1].layers


def test_what_cannot_be_differentiated_is_measured() -> None:
    _, feeds = net()
    model = from_text(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,6,6] x) => (float[N,8] y) {
        a = Conv (x, u)  p = Relu (a)  b = Conv (p, v)  y = Det (b) }""",
        u=np.ones((4, 3, 1, 1), np.float32),
        v=np.random.default_rng(0).standard_normal((8, 4, 1, 1)).astype(np.float32),
    )
    change = quantized(model, feeds, error=0.5, sensitivity=Sensitivity.GRADIENTS)
    (told,) = (note for note in change.notes if note.subject == "sensitivity")
    assert told.action == "measured"
    assert "Det" in told.reason
    assert change.sensitivity == quantized(model, feeds, error=0.5).sensitivity
    with pytest.raises(NotDifferentiable, match="Det"):
        noise_by_gradients(model, [{"u": np.zeros((4, 3, 1, 1), np.float32)}], MACS, make_context(model, feeds))
