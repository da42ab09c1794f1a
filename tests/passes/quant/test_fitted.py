"""Weights that are rounded by what their layers read lose less of the outputs than those rounded to the nearest."""

from __future__ import annotations

import weakref

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant, fitted
from onnxslim.passes.quant.parameters import WeightSettings, quantize_site_weight
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.saturation import Saturation
from onnxslim.passes.quant.scales import Calibration
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.weights import Rounding
from sample_models import from_text
from story import AVX2, VNNI, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue
from onnxslim.runtime.session import Session

NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,8,12,12] x) => (float[N,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u, b)  r = Relu (a)  c = Conv <group = 16> (r, v, d)  q = Relu (c)
    p = GlobalAveragePool (q)  f = Flatten (p)  y = MatMul (f, w) }"""


def net():
    generator = np.random.default_rng(0)
    sizes = {"u": (16, 8, 3, 3), "b": (16,), "v": (16, 1, 3, 3), "d": (16,), "w": (16, 5)}
    weights = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    mix = generator.normal(size=(8, 8)) * np.geomspace(1, 0.05, 8)
    images = np.einsum("nchw,cd->ndhw", generator.normal(size=(64, 8, 12, 12)).cumsum(axis=3), mix)
    return from_text(NET, **weights), images.astype(np.float32)


def weights_of(model, images, rounding, **options):
    """Return the float values of the weights of a quantized model, by what reads them first."""
    after = model.clone()
    given = {"calibration": Calibration.MINMAX, "float_time": 0.0, "equalize": False, "rounding": rounding, **options}
    target = AVX2 if options.get("saturation") is Saturation.PAIRS else VNNI
    assert Quant(**given).run(after, make_context(model, {"x": images}, target=target)).modified
    found = {}
    for node in after.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].const_value is not None:
            levels, scale = (value.const_value.numpy() for value in node.inputs[:2])
            if levels.dtype == np.int8 and levels.ndim > 1:
                axis = node.attributes.get_int("axis", 1)
                found[levels.shape] = levels * scale.reshape([-1 if at == axis else 1 for at in range(levels.ndim)])
    return found, after


def floats_of(model):
    return {value.const_value.numpy().shape: value.const_value.numpy() for value in model.graph.initializers.values()}


def error(found, model, images):
    """Return the energy of what the first convolution makes of the error of its weight."""
    shape = (16, 8, 3, 3)
    lost = from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N,8,12,12] x) => (float[N,16,10,10] y) { y = Conv (x, u) }',
        u=(found[shape] - floats_of(model)[shape]).astype(np.float32),
    )
    made = Session.of(lost, VNNI).run({"x": images})["y"]
    return float(np.square(made - made.mean(axis=(0, 2, 3), keepdims=True)).sum())


def test_outputs_change_less_with_the_same_scales():
    model, images = net()
    original = floats_of(model)
    nearest, _ = weights_of(model, images[:32], Rounding.NEAREST)
    rounded, _ = weights_of(model, images[:32], Rounding.FITTED)
    assert nearest.keys() == rounded.keys() == {(16, 8, 3, 3), (16, 1, 3, 3), (16, 5)}
    assert error(rounded, model, images[32:]) < 0.7 * error(nearest, model, images[32:])
    for key, value in rounded.items():
        assert np.abs(value - nearest[key]).max() < 4 * np.abs(original[key]).max() / 127


def test_pairs_that_must_not_saturate_are_fitted_within_their_limit():
    model, images = net()
    nearest, _ = weights_of(model, images[:32], Rounding.NEAREST, saturation=Saturation.PAIRS)
    rounded, after = weights_of(model, images[:32], Rounding.FITTED, saturation=Saturation.PAIRS)
    largest = []
    for shape, order in (((16, 8, 3, 3), (0, 2, 3, 1)), ((16, 5), (1, 0))):
        assert not np.array_equal(nearest[shape], rounded[shape])
        levels = next(
            value.const_value.numpy()
            for value in after.graph.initializers.values()
            if value.dtype == ir.DataType.INT8 and value.const_value.shape == shape
        )
        products = levels.astype(int).transpose(order).reshape(shape[order[0]], -1)
        largest.append(np.abs(products[:, 0::2] + products[:, 1::2]).max())
    assert max(largest) == 128, "it is the limit that keeps them"
    assert error(rounded, model, images[32:]) < 0.85 * error(nearest, model, images[32:])


def test_what_is_next_to_a_weight_is_what_rounding_to_the_nearest_gives():
    """Else fitting would begin with pairs of which one gave way alone."""
    model, _ = net()
    infer_shapes(model)
    pairs = 0
    for site in make_plan(model, load_table("cpu")).sites:
        settings = WeightSettings(Saturation.PAIRS, per_channel=True, search=True)
        if site.product is not None and fitted.can_be_fitted(site, settings):
            like, blocks = quantize_site_weight(site, settings), site.product.blocks()
            grid = fitted._grid(like, site, blocks.shape, settings)
            found = site.product.from_blocks(grid.plain(blocks) / grid.step[:, None])
            np.testing.assert_allclose(found, like.levels, atol=1e-4)
            pairs += len(grid.left)
    assert pairs


def test_seven_bits_stay_seven_bits():
    model, images = net()
    _, after = weights_of(model, images, Rounding.FITTED, saturation=Saturation.REDUCE_RANGE)
    levels = [value.const_value.numpy() for value in after.graph.initializers.values()]
    assert max(int(np.abs(array.astype(int)).max()) for array in levels if array.shape == (16, 8, 3, 3)) <= 64


def test_moments_that_do_not_fit_together_are_summed_one_after_the_other(monkeypatch):
    model, images = net()
    whole, _ = weights_of(model, images, Rounding.FITTED)
    monkeypatch.setattr(fitted, "BYTES", 1)
    parts, _ = weights_of(model, images, Rounding.FITTED)
    assert whole.keys() == parts.keys()
    monkeypatch.setattr(fitted, "COLUMNS", 1)
    plain, _ = weights_of(model, images, Rounding.FITTED)
    nearest, _ = weights_of(model, images, Rounding.NEAREST)
    for shape, value in nearest.items():
        np.testing.assert_array_equal(value, plain[shape])


def test_a_share_of_time_that_is_none_is_refused():
    with pytest.raises(BadOptionValue, match="float_time"):
        Quant(float_time=1.0)
    model, images = net()
    infer_shapes(model)
    for options, costly in (({"calibration": Calibration.MINMAX, "equalize": False}, True), ({}, False)):
        quantized = model.clone()
        change = Quant(float_time=0.9, **options).run(quantized, make_context(model, {"x": images}, target=VNNI))
        found = any(note.code == "costly" for note in change.notes)
        assert found is costly, "what is judged is 40 dB below what samples differ by, and good enough"


def test_moments_of_layers_are_gone_before_those_of_the_next_are_summed(monkeypatch):
    """Each may be the largest thing in memory."""
    model, images = net()
    seen, alive = [], []

    def counting(*given):
        alive.append(sum(reference() is not None for reference in seen))
        found = sums(*given)
        seen.extend(weakref.ref(each.products) for each in found)
        return found

    sums = fitted.sums
    monkeypatch.setattr(fitted, "sums", counting)
    monkeypatch.setattr(fitted, "BYTES", 1)
    weights_of(model, images[:32], Rounding.FITTED)
    assert alive == [0, 0, 0]
