"""Of weights in few bits those that cost the outputs most get 8: within a share of the bytes, or as many as must."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.integers import INT4, INT8
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.scales import Calibration
from onnxslim.passes.quant.sensitivity import PartErrors
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.weight_only.grids import WeightType
from onnxslim.passes.quant.wider import BYTES, wider_weights
from sample_models import from_text
from story import HERE, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.pipeline.interface import Change
from onnxslim.runtime.session import Session

NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u)  p = Relu (a)  b = Conv <pads = [1, 1, 1, 1]> (p, v)  q = Relu (b)
    c = Conv <pads = [1, 1, 1, 1]> (q, w)  r = Relu (c)  y = Conv (r, k) }"""
SIZES = {"u": (8, 3, 3, 3), "v": (24, 8, 3, 3), "w": (24, 24, 3, 3), "k": (4, 24, 1, 1)}
KEYS = ("a", "b", "c", "y")
ERRORS = st.floats(0, 1).map(lambda error: 0.0 if error < 1e-9 else error)
"""Errors of weights: the solver takes what is smaller for nothing."""


def net() -> tuple[ir.Model, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    weights = {name: (generator.normal(size=size) / np.sqrt(np.prod(size[1:]))) for name, size in SIZES.items()}
    model = from_text(NET, **{name: weight.astype(np.float32) for name, weight in weights.items()})
    infer_shapes(model)
    return model, {"x": generator.normal(size=(32, 3, 8, 8)).astype(np.float32)}


def quantized(error: float = 1.0, weights: WeightType = WeightType.INT4) -> tuple[ir.Model, Change, float]:
    """Return a model in few bits, what was done, and the share of its outputs that is lost."""
    model, feeds = net()
    after = model.clone()
    change = Quant(weights=weights, error=error, calibration=Calibration.MINMAX).run(
        after, make_context(model, feeds, target=HERE)
    )
    wanted, found = (Session.of(either, HERE).run(feeds)["y"] for either in (model, after))
    return after, change, float(np.square(wanted - found).sum() / np.square(wanted).sum())


def bits(change: Change) -> dict[str, float]:
    return {layer.layer: layer.after for layer in change.layers}


def test_small_layers_that_cost_much_get_8_bits_by_default() -> None:
    _, change, _ = quantized()
    (note,) = [note for note in change.notes if note.subject == "weights"]
    assert note.action == "2 of 4 in int8"
    assert note.reason == "they cost the outputs most, and 4.3% more bytes of weights"
    assert bits(change) == {"a": 8, "b": 4, "c": 4, "y": 8}


def test_layers_get_8_bits_back_before_any_stays_in_float() -> None:
    lost, wide = [], []
    for error in (1.0, 0.3, 0.05):
        _, change, share = quantized(error)
        assert len(change.layers) == 4, "none is in float"
        lost.append(share)
        wide.append({name for name, count in bits(change).items() if count == 8})
    assert lost == sorted(lost, reverse=True)
    assert wide[0] < wide[1] < wide[2] == {"a", "b", "c", "y"}
    assert lost[2] < 0.05 * lost[0]
    _, change, share = quantized(1e-4)
    assert len(change.layers) < 4
    assert share < lost[2]


def test_two_bits_lose_more_and_are_made_milder_alike() -> None:
    _, change, lost = quantized(weights=WeightType.INT2)
    assert 2 in bits(change).values()
    assert lost > 3 * quantized()[2]
    assert quantized(0.01, WeightType.INT2)[2] < 0.05 * lost


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # the first example reads our modules
@given(
    st.lists(ERRORS, min_size=4, max_size=4),
    st.lists(st.floats(0, 0.1), min_size=4, max_size=4),
    st.floats(0.01, 1),
)
def test_as_much_error_goes_as_must(of_weights: list[float], of_tensors: list[float], share: float) -> None:
    model, _ = net()
    plan = make_plan(model, load_table("cpu"))
    errors = PartErrors(dict(zip("xpqr", of_tensors, strict=True)), dict(zip(KEYS, of_weights, strict=True)))
    found = wider_weights(plan, errors, INT4, share)
    whole = found.sites == set(KEYS)
    # What is left of a weight of 8 bits is not counted as what remains, and the solver stops close to the best.
    assert whole or found.errors.total <= share * errors.total + sum(of_weights) * (2**-8 + 1e-3)
    assert share < 1 or found.added <= BYTES + 1e-9
    assert all(found.errors.weights[key] <= errors.weights[key] for key in KEYS)
    assert found.errors.tensors == errors.tensors
    assert bool(found.notes(plan)) == bool(found.sites)


def test_weights_of_8_bits_have_none_that_are_wider() -> None:
    model, feeds = net()
    change = Quant(calibration=Calibration.MINMAX).run(model, make_context(model.clone(), feeds, target=HERE))
    assert not [note for note in change.notes if note.subject == "weights"]
    assert set(bits(change).values()) == {INT8.bits}
