"""What a quantized layer loses is made up for by those behind it."""

from __future__ import annotations

import numpy as np
import pytest
from onnxslim.passes.quant import Quant, fed_forward, quantizer
from onnxslim.passes.quant.integers import INT8
from onnxslim.passes.quant.saturation import PAIR_LIMIT, products_in_order
from onnxslim.passes.quant.weights import QuantizedWeight
from sample_models import from_text
from story import AVX2, VNNI, make_context

from onnxslim.runtime.session import Session

NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,4,12,12] x) => (float[N,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u, b)  s = Sigmoid (a)  r = Mul (a, s)
    c = Conv <pads = [1, 1, 1, 1]> (r, v, d)  t = Add (c, r)  q = Relu (t)
    e = Conv <pads = [1, 1, 1, 1]> (q, k, f)  h = Relu (e)
    p = GlobalAveragePool (h)  l = Flatten (p)  y = Gemm (l, w, z) }"""
"""The second convolution ends a branch of a residual block, and the last product makes the output."""


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """However little is lost."""
    monkeypatch.setattr(quantizer, "MUCH", 0.0)


def net(count: int = 96):
    generator = np.random.default_rng(1)
    sizes = {"u": (12, 4, 3, 3), "b": (12,), "v": (12, 12, 3, 3), "d": (12,), "k": (16, 12, 3, 3), "f": (16,)}
    sizes |= {"w": (16, 5), "z": (5,)}
    weights = {name: (generator.normal(size=size) / 4).astype(np.float32) for name, size in sizes.items()}
    weights["u"][0] *= 40  # one channel takes most levels of all that follows: the others lose their small values
    images = generator.normal(size=(count, 4, 12, 12)).astype(np.float32)
    return from_text(NET, **weights), images


@pytest.fixture
def fed(monkeypatch):
    """Return what is fed forward, as the pass goes on."""
    found = []
    original = fed_forward.fed_forward

    def listen(*given):
        found.append((*given, original(*given)))
        return found[-1][-1]

    monkeypatch.setattr(fed_forward, "fed_forward", listen)
    return found


def quantized(model, images, **options):
    context = make_context(model, {"x": images}, target=options.pop("target", VNNI))
    assert Quant(float_time=0.0, equalize=False, times="estimated", **options).run(model, context).modified
    return model


def error(model, reference, images):
    given, wanted = (Session.of(each, VNNI).run({"x": images})["y"] for each in (model, reference))
    return float(np.square(given - wanted).sum() / np.square(wanted).sum())


def test_outputs_lose_less_where_layers_make_up_for_others(monkeypatch):
    model, images = net()
    reference = model.clone()
    errors = [error(quantized(model.clone(), images[:64]), reference, images[64:])]
    monkeypatch.setattr(quantizer, "fed_where_better", lambda *given: fed_forward.FedLayers({}))
    errors.append(error(quantized(model.clone(), images[:64]), reference, images[64:]))
    assert errors[0] < 0.8 * errors[1]


def test_products_before_the_outputs_stay_and_the_others_are_fitted(fed):
    model, images = net()
    quantized(model, images)
    ((*_, layers),) = fed
    assert set(layers) == {"a", "c", "e"}
    assert all(layer.weight.integers == INT8 for layer in layers.values())


def test_what_costs_the_outputs_more_on_other_samples_is_not_taken(monkeypatch):
    plain, images = net()
    worse = plain.clone()
    with monkeypatch.context() as changed:
        changed.setattr(fed_forward, "fed_forward", lambda *given: {})
        quantized(plain, images)

    def garbage(model, plan, given, *rest):
        site = next(site for site in plan.sites if site.key == "c")
        weight = given.weights[site.node]
        flipped = QuantizedWeight(-weight.levels, weight.scale, weight.axis, weight.integers)
        return {"c": fed_forward.FittedLayer(flipped, given.biases[site.node])}

    monkeypatch.setattr(fed_forward, "fed_forward", garbage)
    quantized(worse, images)
    made = [Session.of(each, VNNI).run({"x": images[:8]})["y"] for each in (plain, worse)]
    np.testing.assert_array_equal(*made)


def test_biases_take_back_the_mean_error_of_what_layers_give(fed):
    model, images = net()
    reference = model.clone()
    quantized(model, images, rounding=quantizer.Rounding.FITTED)
    samples = fed[0][5]
    seen = np.concatenate([batch.feeds["x"] for batch in samples.batches()])
    # The first layer reads the input, which is rounded: all that is lost on average is taken back.
    bias, weight = fed[0][-1]["a"].bias, fed[0][-1]["a"].weight
    scale = fed[0][2].choice["x"]
    rounded = (scale.quantize(seen).astype(np.float32) - scale.zero_point) * scale.scale
    conv = from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N,4,12,12] x) => (float[N,12,12,12] y) '
        "{ y = Conv <pads = [1, 1, 1, 1]> (x, u, b) }",
        u=weight.dequantized().astype(np.float32),
        b=bias.astype(np.float32),
    )
    first = {name: reference.graph.initializers[name].const_value.numpy() for name in ("u", "b")}
    wanted = from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N,4,12,12] x) => (float[N,12,12,12] y) '
        "{ y = Conv <pads = [1, 1, 1, 1]> (x, u, b) }",
        **first,
    )
    lost = Session.of(wanted, VNNI).run({"x": seen})["y"] - Session.of(conv, VNNI).run({"x": rounded})["y"]
    assert np.abs(lost.mean(axis=(0, 2, 3))).max() < 1e-4 * np.abs(bias).max()


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (12, {}),  # none can be set apart
        (96, {"rounding": quantizer.Rounding.NEAREST}),
        (96, {"bias_correction": False}),
    ],
)
def test_nothing_is_fed_forward_on_few_samples_or_where_it_is_not_wanted(fed, count, options):
    model, images = net(count)
    quantized(model, images, **options)
    assert not fed


def test_nothing_is_fed_forward_where_little_is_lost(fed, monkeypatch):
    model, images = net()
    monkeypatch.setattr(quantizer, "MUCH", 0.5)
    quantized(model, images)
    assert not fed


def test_weights_that_make_up_for_others_keep_pairs_of_products_from_saturating(fed):
    model, images = net()
    quantized(model, images, target=AVX2)
    ((_, plan, given, *_, layers),) = fed
    changed = 0
    for site in plan.sites:
        if site.key in layers:
            weight = layers[site.key].weight
            changed += int((weight.levels != given.weights[site.node].levels).any())
            rows = products_in_order(weight.levels.astype(int), weight.axis, site.row.packing)
            even = rows.shape[1] // 2 * 2
            assert np.abs(rows[:, 0:even:2] + rows[:, 1:even:2]).max(initial=0) <= PAIR_LIMIT
            assert np.abs(layers[site.key].bias - given.biases[site.node]).max() > 0
    assert changed
