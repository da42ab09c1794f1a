"""Each calibration finds the interval that it promises, and reads the samples once or twice."""

from __future__ import annotations

import detector
import numpy as np
import pytest
from counted_samples import counted_samples
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.integers import INT8, UINT8
from onnxslim.passes.quant.intervals import Histogram, entropy_interval, mse_interval, percentile_interval
from onnxslim.passes.quant.parameters import bias_correction, bias_floor, quantize_bias
from onnxslim.passes.quant.scales import CUTTING, Calibration, Scale, intervals_of
from onnxslim.passes.quant.weights import Rounding, quantize_weight
from sample_models import from_text
from story import HERE, VNNI, make_context

from onnxslim.observe.sensitivity import TELLING
from onnxslim.observe.statistics import BINS, Grid, Range

BOTTLENECK = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,16,16] x) => (float[N,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u, b)  r = Relu (a)  m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
    c = Conv <pads = [1, 1, 1, 1]> (m, v)  s = Add (c, m)  p = GlobalAveragePool (s)  f = Flatten (p)
    y = Gemm (f, w, d) }"""


def bottleneck():
    generator = np.random.default_rng(0)
    sizes = {"u": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "w": (8, 5), "d": (5,)}
    weights = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return from_text(BOTTLENECK, **weights), [
        {"x": generator.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(40)
    ]


@pytest.mark.parametrize("calibration", list(Calibration))
@pytest.mark.parametrize("error", [1.0, 0.5])
@pytest.mark.parametrize("case", ["layers", "a detector whose tail stays float"])
def test_samples_are_streamed_once_and_once_more_for_histograms(case, error, calibration):
    model, feeds = bottleneck()
    if case != "layers":
        model, feeds = detector.detector(), [{"images": image[None]} for image in detector.photos(40)]
    samples, streams = counted_samples(feeds)
    context = make_context(model, samples, target=VNNI)
    options = {"calibration": calibration, "error": error, "float_time": 0.0, "rounding": Rounding.NEAREST}
    options["equalize"] = False
    assert Quant(**options).run(model, context).modified
    sensitivity = streams.pop(8, 0)
    assert sensitivity == (error < 1), "few samples tell what layers cost"
    judged = calibration is Calibration.AUTO
    assert streams.pop(TELLING, 0) == sensitivity + judged, "more of them tell what parts outputs have"
    apart = {30: 2, 10: 1} if calibration is Calibration.AUTO else {}
    assert streams == {40: 1 + calibration.needs_histograms, **apart}


@pytest.mark.parametrize("equalize", [False, True])
def test_by_default_the_samples_are_read_for_ranges_histograms_moments_and_trials(equalize):
    model, feeds = bottleneck()
    samples, streams = counted_samples(feeds)
    assert Quant(equalize=equalize).run(model, make_context(model, samples, target=HERE)).modified
    # As often again for the model of equal channels, once for the widths of channels, and 4 to compare the two models;
    # wherever fewer than 16 run, 16 tell what parts outputs have.
    told = streams.pop(TELLING)
    assert streams == ({40: 7, 30: 4, 10: 2, 8: 2, 4: 1} if equalize else {40: 3, 30: 2, 10: 1, 8: 1})
    assert told == (5 if equalize else 2)


def histogram_of(array):
    grid = Grid.covering(array.min(), array.max())
    bins = np.clip(np.rint(array / grid.width) + grid.zero, 0, BINS - 1).astype(int)
    return Histogram(np.bincount(bins.reshape(-1), minlength=BINS).astype(float), grid)


@pytest.mark.parametrize("groups", [1, 2])
def test_correction_takes_back_the_mean_error(groups):
    generator = np.random.default_rng(2)
    weight = generator.normal(size=(4, 3, 2, 2)).astype(np.float32)
    rounded = np.rint(weight)
    means = generator.normal(size=3 * groups)
    x = np.broadcast_to(means[:, None, None], (3 * groups, 2, 2)).reshape(groups, 3, 2, 2)
    lost = np.einsum("gcij,gocij->go", x, (weight - rounded).reshape(groups, -1, 3, 2, 2)).reshape(-1)
    np.testing.assert_allclose(bias_correction(weight, rounded, 0, means), lost, rtol=1e-6)


def test_minmax_covers_everything():
    (interval,) = intervals_of(Range(-1.0, 3.0), None, Calibration.MINMAX, 99.9, 255)
    scale = Scale.covering(*interval, UINT8)
    assert (scale.zero_point, scale.integers) == (64, UINT8)
    assert scale.interval == pytest.approx((-1, 3), abs=0.01)


def test_percentile_leaves_the_rarest_out():
    low, high = percentile_interval(histogram_of(np.arange(-500, 501) / 100), 90.0)
    assert (low, high) == pytest.approx((-4.5, 4.5), abs=0.02)


def test_mse_cuts_off_a_lone_outlier_and_nothing_else():
    generator = np.random.default_rng(3)
    array = np.append(generator.uniform(-1, 1, 100_000), 8.0)
    low, high = mse_interval(histogram_of(array), 255)
    # the error of a bound h is (1 + h)^2 / 255^2 / 12 x 100,000 + (8 - h)^2, smallest at h = 6.98
    assert (low, high) == pytest.approx((-1, 6.98), abs=0.05)
    low, high = mse_interval(histogram_of(np.append(generator.uniform(-1, 1, 10_000_000), 8.0)), 255)
    assert (low, high) == pytest.approx((-1, 1), abs=0.1)


def test_mse_finds_the_best_of_all_intervals_that_are_tried_out():
    generator = np.random.default_rng(4)
    array = generator.laplace(size=200_000)

    def error(high):
        scale = Scale.covering(-high, high, UINT8)
        return np.square((scale.quantize(array).astype(float) - scale.zero_point) * float(scale.scale) - array).mean()

    low, high = mse_interval(histogram_of(array), 255)
    assert error((high - low) / 2) <= 1.03 * min(error(bound) for bound in np.linspace(3, array.max(), 60))


def test_what_is_cut_off_may_count_more():
    array = np.random.default_rng(6).laplace(size=200_000)
    histogram = histogram_of(array)
    highs = [mse_interval(histogram, 255, cutting)[1] for cutting in (1.0, 4.0, 16.0, 1e9)]
    assert highs == sorted(highs)
    assert highs[0] < 0.9 * highs[2]
    assert highs[-1] == pytest.approx(array.max(), rel=0.01)


def test_entropy_leaves_a_far_tail_out_and_keeps_what_is_even():
    generator = np.random.default_rng(7)
    even = generator.uniform(-1, 3, 100_000)
    assert entropy_interval(histogram_of(even), 255) == pytest.approx((-1, 3), abs=0.1)
    low, high = entropy_interval(histogram_of(np.append(generator.normal(size=100_000), [40.0, -40.0])), 255)
    assert 2.5 < high < 10
    assert low == pytest.approx(-high, abs=0.1)


def test_auto_has_several_intervals_and_all_others_one():
    seen, histogram = (
        Range(-8.0, 9.0),
        histogram_of(np.append(np.random.default_rng(8).normal(size=10_000), [9.0, -8.0])),
    )
    for calibration in Calibration:
        found = intervals_of(seen, histogram, calibration, 99.0, 255)
        assert len(found) == (2 + len(CUTTING) if calibration is Calibration.AUTO else 1)
        assert all(-8 * 1.25 <= low <= 0 <= high <= 9 * 1.25 for low, high in found)
    assert intervals_of(seen, None, Calibration.AUTO, 99.0, 255) == [(-8.0, 9.0)]


def test_few_samples_that_differ_leave_headroom():
    model, feeds = bottleneck()
    generator = np.random.default_rng(3)
    for batch in feeds:
        batch["x"] *= np.float32(generator.pareto(1.5) + 0.1)
    after = _quantized(model, feeds, Calibration.AUTO)
    tight = _quantized(model, feeds, Calibration.MSE)
    wide = [
        next(node for node in made.graph if node.op_type == "QuantizeLinear").inputs[1].const_value.numpy()
        for made in (after, tight)
    ]
    assert wide[0] > wide[1], "what is cut off belongs to the samples that count most"


def test_a_moving_average_leaves_the_extremes_of_single_runs_out():
    model, feeds = bottleneck()
    for batch in feeds[1:]:
        batch["x"] *= 0.1
    wide, narrow = (
        next(node for node in after.graph if node.op_type == "QuantizeLinear").inputs[1].const_value.numpy()
        for after in (_quantized(model, feeds, calibration) for calibration in (Calibration.MINMAX, Calibration.MOVING))
    )
    assert narrow < 0.8 * wide


def _quantized(model, feeds, calibration):
    after = model.clone()
    options = {"calibration": calibration, "float_time": 0.0, "rounding": Rounding.NEAREST, "equalize": False}
    samples, _ = counted_samples(feeds)
    assert Quant(**options).run(after, make_context(model, samples, target=VNNI)).modified
    return after


def test_mse_of_one_side_and_of_nothing():
    low, high = mse_interval(histogram_of(np.linspace(0, 2, 1000)), 255)
    assert low == 0
    assert high == pytest.approx(2, abs=0.01)
    assert mse_interval(Histogram(np.zeros(BINS), Grid(1.0, 0)), 255) == (0.0, 0.0)


def test_zeros_alone_have_a_scale():
    scale = Scale.covering(0.0, 0.0, INT8)
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
