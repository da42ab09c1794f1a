"""What leaves the model is small, and each calibration finds the interval that it promises."""

from __future__ import annotations

import numpy as np
import pytest
from onnxslim.passes.quant.bias import correction, observe_means
from onnxslim.passes.quant.observe import (
    BINS,
    Histogram,
    Range,
    histogram_probe,
    observe_histograms,
    observe_ranges,
    range_probe,
)
from onnxslim.passes.quant.scales import Calibration, Scale, choose_scale, mse_interval, percentile_interval
from onnxslim.passes.quant.weights import bias_floor, quantize_bias, quantize_weight
from sample_models import from_text
from story import make_context

from onnxslim.data import open_samples
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

CPU = Target("cpu", "a processor", "avx2", 1)


def model():
    return from_text('<ir_version: 9, opset_import: ["" : 17]> g (float[N,M] x) => (float[N,M] y) { y = Relu (x) }')


def context_and_samples(x):
    samples = open_samples({"x": x}, Session.of(model(), CPU).inputs)
    return make_context(model(), samples, target=CPU), samples


def histogram_of(array):
    width = (max(array.max(), 0) - min(array.min(), 0)) / (BINS - 2)
    zero = round(-min(array.min(), 0) / width)
    bins = np.clip(np.rint(array / width) + zero, 0, BINS - 1).astype(int)
    return Histogram(np.bincount(bins.reshape(-1), minlength=BINS).astype(float), width, zero)


def test_ranges_and_histograms_are_those_of_all_samples():
    x = np.random.default_rng(0).normal(size=(7, 100)).astype(np.float32)
    context, samples = context_and_samples(x)
    ranges = observe_ranges(model(), ["x", "y"], context, samples)
    assert ranges == {"x": Range(float(x.min()), float(x.max())), "y": Range(0.0, float(x.max()))}
    found = observe_histograms(model(), ranges, context, samples)
    assert found["x"].counts.sum() == x.size
    assert found["y"].counts[found["y"].zero] >= (x <= 0).sum()
    expected = histogram_of(x).counts
    # float32 in the graph, float64 here: a value on the border may fall next door
    assert np.abs(found["x"].counts - expected).sum() <= 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad):
    context, samples = context_and_samples(np.array([[1, bad, 2]], np.float32))
    assert not observe_ranges(model(), ["x"], context, samples)["x"].finite


@pytest.mark.parametrize("size", [10, 100_000])
def test_results_do_not_grow_with_the_tensors(size):
    x = np.ones((1, size), np.float32)
    ranges = {"x": Range(-1.0, 1.0), "y": Range(0.0, 1.0)}
    for probe in (range_probe(model(), ["x", "y"]), histogram_probe(model(), ranges)[0]):
        found = Session.of(probe.model, CPU).run({"x": x})
        assert sum(array.nbytes for array in found.values()) <= 2 * 4 * BINS


def test_means_are_those_of_all_samples():
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    context, samples = context_and_samples(x)
    np.testing.assert_allclose(observe_means(model(), {"x": (1, 2)}, context, samples)["x"], x.mean(0), rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_correction_takes_back_the_mean_error(groups):
    generator = np.random.default_rng(2)
    weight = generator.normal(size=(4, 3, 2, 2)).astype(np.float32)
    rounded = np.rint(weight)
    means = generator.normal(size=3 * groups)
    x = np.broadcast_to(means[:, None, None], (3 * groups, 2, 2)).reshape(groups, 3, 2, 2)
    lost = np.einsum("gcij,gocij->go", x, (weight - rounded).reshape(groups, -1, 3, 2, 2)).reshape(-1)
    np.testing.assert_allclose(correction(weight, rounded, 0, means), lost, rtol=1e-6)


def test_minmax_covers_everything():
    scale = choose_scale(Range(-1.0, 3.0), None, Calibration.MINMAX, 99.9, signed=False)
    assert (scale.zero_point, scale.dtype) == (64, np.uint8)
    assert scale.interval == pytest.approx((-1, 3), abs=0.01)


def test_percentile_leaves_the_rarest_out():
    low, high = percentile_interval(histogram_of(np.arange(-500, 501) / 100), 90.0)
    assert (low, high) == pytest.approx((-4.5, 4.5), abs=0.02)


def test_mse_cuts_off_a_lone_outlier_and_nothing_else():
    generator = np.random.default_rng(3)
    array = np.append(generator.uniform(-1, 1, 100_000), 8.0)
    low, high = mse_interval(histogram_of(array))
    # the error of a bound h is (1 + h)^2 / 255^2 / 12 x 100,000 + (8 - h)^2, smallest at h = 6.98
    assert (low, high) == pytest.approx((-1, 6.98), abs=0.05)
    low, high = mse_interval(histogram_of(np.append(generator.uniform(-1, 1, 10_000_000), 8.0)))
    assert (low, high) == pytest.approx((-1, 1), abs=0.1)


def test_mse_finds_the_best_of_all_intervals_that_are_tried_out():
    generator = np.random.default_rng(4)
    array = generator.laplace(size=200_000)

    def error(high):
        scale = Scale.covering(-high, high, signed=False)
        return np.square((scale.quantize(array).astype(float) - scale.zero_point) * float(scale.scale) - array).mean()

    low, high = mse_interval(histogram_of(array))
    assert error((high - low) / 2) <= 1.03 * min(error(bound) for bound in np.linspace(3, array.max(), 60))


def test_mse_of_one_side_and_of_nothing():
    low, high = mse_interval(histogram_of(np.linspace(0, 2, 1000)))
    assert low == 0
    assert high == pytest.approx(2, abs=0.01)
    assert mse_interval(Histogram(np.zeros(BINS), 1.0, 0)) == (0.0, 0.0)


def test_zeros_alone_have_a_scale():
    scale = Scale.covering(0.0, 0.0, signed=True)
    assert (scale.scale, scale.zero_point) == (1, -128)


def test_weights_have_the_scale_with_the_smallest_error():
    generator = np.random.default_rng(5)
    weight = generator.normal(size=(4, 20_000)).astype(np.float32)
    weight[0, 0] = 5.5

    def error(**options):
        return np.square(quantize_weight(weight, 0, **options).dequantized() - weight).sum()

    assert error(search=True) < error(search=False)
    assert error(search=False) < error(search=False, per_channel=False)
    assert error(search=True, per_channel=False) <= error(search=False, per_channel=False)


def test_channels_of_zeros_leave_room_for_their_bias():
    weight = np.zeros((3, 5), np.float32)
    weight[0] = 0.01
    bias = np.array([1.0, -2.0, 1e6], np.float32)
    quantized = quantize_weight(weight, 0, floor=bias_floor(bias, np.float32(0.1)))
    levels, scale = quantize_bias(bias, np.float32(0.1), quantized)
    np.testing.assert_allclose(levels * scale, bias, rtol=1e-3)
    assert (quantize_weight(np.zeros((3, 5), np.float32), 0).scale == 1).all()
