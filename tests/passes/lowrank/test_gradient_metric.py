"""The metric by gradients is J'J of the outputs by what a layer gives, and splits that use it lose less."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.lowrank import Lowrank
from onnxslim.passes.lowrank.allocation import Weighing
from onnxslim.passes.lowrank.gradient_metric import gradient_metrics
from onnxslim.passes.lowrank.layer import find_layers
from sample_models import from_text
from story import make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Floats
from onnxslim.data import Samples, open_samples
from onnxslim.errors import BadOptionValue, NotDifferentiable
from onnxslim.pipeline.interface import Change, Goal
from onnxslim.runtime.session import Session

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'
OF_PRODUCTS = """g (float[N,8,16] x, float u, float v) => (float[N,8,6] y) { h = MatMul (x, u) y = MatMul (h, v) }"""
OF_PLACES = """g (float[N,16,5,5] x, float u, float v) => (float[N,6,5,5] y) { h = Conv (x, u) y = Conv (h, v) }"""
FAR = """g (float[N,8,48] x, float u, float v, float w, float s) => (float[N,8,16] y) {
    h = MatMul (x, u) a = MatMul (h, v) b = Mul (a, s) r = Relu (b) y = MatMul (r, w) }"""
"""What the second product gives is scaled before the third reads it: all but a few channels hardly count."""


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def opened(text: str, **weights: np.ndarray) -> tuple[ir.Model, Samples]:
    model = from_text(HEADER + text, **weights)
    infer_shapes(model)
    shape = [64 if isinstance(size, ir.SymbolicDim) else size for size in model.graph.inputs[0].shape or ()]
    random = np.random.default_rng(1)
    samples = {"x": random.standard_normal(shape).astype(np.float32)}
    return model, open_samples(samples, Session.of(model).inputs)


def metrics(model: ir.Model, samples: Samples, macs: int = 1) -> dict[str, Floats]:
    layers = find_layers(model, smallest=1)[0]
    found = gradient_metrics(model, layers, macs, make_context(model, samples))
    return {layer.weight.name or "": found[layer.name] for layer in layers if layer.name in found}


@pytest.mark.parametrize("text", [OF_PRODUCTS, OF_PLACES])
def test_it_is_what_the_product_behind_makes_of_errors(text: str) -> None:
    windows = text is OF_PLACES
    u, v = drawn(16, 12), drawn(12, 6, seed=2)
    stored = {"u": u.T[:, :, None, None], "v": v.T[:, :, None, None]} if windows else {"u": u, "v": v}
    model, samples = opened(text, **stored)
    found = metrics(model, samples)
    session = Session.of(model)
    energy = sum(float(np.square(session.run(batch.feeds)["y"]).sum()) for batch in samples.batches(16))
    expected = v.astype(np.float64) @ v.T / energy
    np.testing.assert_allclose(found["u"], expected, atol=0.05 * np.abs(expected).max())
    np.testing.assert_allclose(found["v"], np.eye(6) / energy, atol=0.05 / energy)


def test_layers_that_were_seen_too_seldom_have_none() -> None:
    text = "g (float[N,16] x, float u, float v) => (float[N,6] y) { h = MatMul (x, u) y = MatMul (h, v) }"
    model, samples = opened(text, u=drawn(16, 100), v=drawn(100, 6))
    assert list(metrics(model, samples)) == ["v"]  # 64 samples, 4 directions
    assert not metrics(model, samples, macs=10**15)


def split(model: ir.Model, samples: Samples, weighing: Weighing) -> tuple[float, Change]:
    after = model.clone()
    step = Lowrank(rank=0.3, align=2, smallest=64, kinds=("matrix",), weighing=weighing, include=("u",))
    change = step.run(after, make_context(model, samples, goal=Goal.SIZE))
    held_out = {"x": np.random.default_rng(9).standard_normal((64, 8, 48)).astype(np.float32)}
    one, two = (Session.of(each).run(held_out)["y"].astype(np.float64) for each in (model, after))
    return float(np.square(one - two).sum() / np.square(one).sum()), change


def test_splits_keep_what_the_outputs_see_behind_the_next_product() -> None:
    scale = np.full(40, 0.01, np.float32)
    scale[:6] = 1
    model, samples = opened(FAR, u=drawn(48, 40), v=drawn(40, 40, seed=3), w=drawn(40, 16, seed=4), s=scale)
    (local, _), (far, change) = (split(model, samples, each) for each in Weighing)
    assert change.modified
    assert far < 0.3 * local


def test_without_gradients_errors_are_weighed_by_the_next_products() -> None:
    text = """g (float[N,64,5,5] x, float[N,2,2,2] at, float u, float v) => (float[N,64,2,2] y) {
        h = Conv (x, u) k = Conv (h, v) y = GridSample (k, at) }"""
    model = from_text(HEADER + text, u=drawn(64, 64, 1, 1), v=drawn(64, 64, 1, 1, seed=2))
    infer_shapes(model)
    random = np.random.default_rng(0)
    data = {"x": drawn(64, 64, 5, 5), "at": random.uniform(-1, 1, (64, 2, 2, 2)).astype(np.float32)}
    samples = open_samples(data, Session.of(model).inputs)
    with pytest.raises(NotDifferentiable, match="GridSample"):
        metrics(model, samples)
    made = []
    for weighing in Weighing:
        after = model.clone()
        step = Lowrank(rank=0.3, align=4, smallest=64, kinds=("matrix",), weighing=weighing)
        change = step.run(after, make_context(model, samples, goal=Goal.SIZE))
        made.append(Session.of(after).run(data)["y"])
        told = [note for note in change.notes if note.subject == "errors"]
        assert [note.action for note in told] == ["weighed as local does"] * (weighing is Weighing.GRADIENTS)
        assert all("GridSample" in note.reason for note in told)
    np.testing.assert_array_equal(*made)


def test_windows_and_weights_that_work_in_several_places_have_none() -> None:
    text = """g (float[N,8,5,5] x, float u, float v) => (float[N,8,5,5] y) {
        a = Conv <pads=[1,1,1,1]> (x, u) b = Conv (a, v) c = Relu (b) y = Conv (c, v) }"""
    model, samples = opened(text, u=drawn(8, 8, 3, 3), v=drawn(8, 8, 1, 1))
    assert not metrics(model, samples)


def test_the_report_says_for_how_many_layers_there_are_gradients() -> None:
    model, samples = opened(FAR, u=drawn(48, 40), v=drawn(40, 40, seed=3), w=drawn(40, 16, seed=4), s=np.float32(1))
    _, change = split(model, samples, Weighing.GRADIENTS)
    assert "weighed by gradients for 1 of 1 layers" in [note.action for note in change.notes]


def test_errors_that_all_count_alike_are_not_weighed() -> None:
    with pytest.raises(BadOptionValue, match="whiten"):
        Lowrank(whiten=False, weighing=Weighing.GRADIENTS)
