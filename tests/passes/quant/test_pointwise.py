"""Levels of a tensor lie where the pointwise ops behind it leave something of its values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.quant import Quant, calibration
from onnxslim.passes.quant.intervals import Histogram, mse_interval
from onnxslim.passes.quant.pointwise import curves
from onnxslim.passes.quant.scales import NOTHING_LOST, Calibration, intervals_of
from onnxslim.passes.quant.weights import Rounding
from sample_models import from_text
from story import VNNI, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.observe.statistics import BINS, Grid, Range
from onnxslim.runtime.session import Session

HEAD = '<ir_version: 9, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,4] y)'
NUMBERS = np.linspace(-20, 20, 101)
SWISH = NUMBERS / (1 + np.exp(-NUMBERS))


def made_of(body: str, *members: str, **constants: np.ndarray):
    named = {name: array for name, array in constants.items() if f"{name})" in body}
    model = from_text(f"{HEAD} {{ {body} }}", **named)
    infer_shapes(model)
    values = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None}
    return curves([values[name] for name in members or ("x",)], NUMBERS)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("s = Sigmoid (x) p = Mul (x, s) y = MatMul (p, w)", [SWISH]),
        ("s = Sigmoid (x) y = Mul (s, x)", [SWISH]),
        ("s = Sigmoid (x) p = Mul (x, s) q = MatMul (p, w) y = Add (x, q)", [NUMBERS, SWISH]),
        ("r = Add (x, h) c = Relu (r) d = Mul (c, x) y = MatMul (d, w)", [np.maximum(NUMBERS + 0.5, 0) * NUMBERS]),
        ("t = Tanh (x) a = MatMul (t, w) r = Relu (x) b = MatMul (r, w) y = Add (a, b)", [np.tanh, np.maximum]),
    ],
)
def test_error_counts_behind_pointwise_ops(body, expected):
    found = made_of(body, w=np.eye(4, dtype=np.float32), h=np.float32(0.5))
    wanted = {np.tanh: np.tanh(NUMBERS), np.maximum: np.maximum(NUMBERS, 0)}
    rows = np.array([row if isinstance(row, np.ndarray) else wanted[row] for row in expected])
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], rows[np.argsort(rows[:, 0])], atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul (x, w)",
        "y = Mul (x, v)",  # another factor for each channel: no function of the element alone
        "t = Transpose <perm = [1, 0]> (x) z = Transpose <perm = [1, 0]> (t) y = Mul (x, z)",  # of another element
        "r = Log (x) y = MatMul (r, w)",  # not finite
    ],
)
def test_nothing_is_said_where_elements_stay_or_are_not_alone(body):
    assert made_of(body, w=np.eye(4, dtype=np.float32), v=np.float32([1, 2, 3, 4])) is None


def test_moved_elements_count_where_they_are_read():
    body = "t = Transpose <perm = [1, 0]> (x) s = Sigmoid (t) z = Transpose <perm = [1, 0]> (s) y = MatMul (z, w)"
    found = made_of(body, "x", "t", w=np.eye(4, dtype=np.float32))
    np.testing.assert_allclose(found, [1 / (1 + np.exp(-NUMBERS))], atol=1e-6)


def histogram_of(array: np.ndarray, curve) -> Histogram:
    grid = Grid.covering(float(array.min()), float(array.max()))
    places = np.rint(array / grid.width).astype(int) + grid.zero
    plain = Histogram(np.bincount(places, minlength=BINS).astype(float), grid)
    return Histogram(plain.counts, grid, None if curve is None else np.array([curve(plain.centers)]))


def swish(values: np.ndarray) -> np.ndarray:
    return values / (1 + np.exp(-values))


def test_levels_do_not_reach_where_nothing_is_left_of_values():
    array = np.random.default_rng(0).normal(-20, 20, 200_000)
    seen = Range(float(array.min()), float(array.max()))
    plain = intervals_of(seen, histogram_of(array, None), Calibration.AUTO, 99.9, 255)
    told = intervals_of(seen, histogram_of(array, swish), Calibration.AUTO, 99.9, 255)
    assert plain[0] == (seen.low, seen.high)
    assert len(told) == len(plain)
    for (low, high), (_, plain_high) in zip(told, plain, strict=True):
        assert -16 < low < -2
        assert high > 0.9 * min(plain_high, seen.high)


@settings(deadline=None)
@given(
    st.integers(0, 100), st.floats(-30, 30), st.floats(1, 30), st.sampled_from([1.0, 16.0, NOTHING_LOST]),
    st.sampled_from([swish, np.tanh, lambda values: np.maximum(values, 0), lambda values: np.clip(values, -3, 3)]),
)  # fmt: skip
def test_no_other_interval_of_a_grid_costs_less_behind_the_curve(seed, mean, spread, cutting, curve):
    array = np.random.default_rng(seed).normal(mean, spread, 4000)
    array = np.concatenate([array, [0.0]])
    histogram = histogram_of(array, curve)
    centers, counts = histogram.centers, histogram.counts
    slopes = np.square(np.gradient(curve(centers), histogram.grid.width))

    def cost(low, high):
        inside = (centers >= low) & (centers <= high) & (centers != 0)
        cut = counts * np.square(curve(centers) - curve(np.clip(centers, low, high)))
        return ((high - low) / 255) ** 2 / 12 * (counts * slopes)[inside].sum() + cutting * cut.sum()

    low, high = mse_interval(histogram, 255, cutting)
    lows, highs = (np.linspace(0, end, 30) for end in (min(array.min(), 0), max(array.max(), 0)))
    least = min(cost(each, other) for each in lows for other in highs)
    assert cost(low, high) <= 1.05 * least + 1e-7 * len(array)


NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,4,12,12] x) => (float[N,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u, b)  s = Sigmoid (a)  r = Mul (a, s)
    c = Conv <pads = [1, 1, 1, 1]> (r, v, d)  z = Sigmoid (c)  q = Mul (c, z)
    p = GlobalAveragePool (q)  f = Flatten (p)  y = MatMul (f, w) }"""


def test_a_net_of_swish_loses_less(monkeypatch):
    generator = np.random.default_rng(1)
    sizes = {"u": (16, 4, 3, 3), "v": (16, 16, 3, 3), "d": (16,), "w": (16, 5)}
    weights = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    weights["u"] /= 2
    weights["b"] = np.repeat(np.float32([-60, 0]), 8)  # half of what the first convolution makes lies far below zero
    images = generator.normal(size=(48, 4, 12, 12)).astype(np.float32)
    errors = []
    for told in (True, False):
        if not told:
            monkeypatch.setattr(calibration, "curves", lambda members, numbers: None)
        model = from_text(NET, **weights)
        before = Session.of(model.clone(), VNNI).run({"x": images[24:]})["y"]
        context = make_context(model, {"x": images[:24]}, target=VNNI)
        assert Quant(float_time=0.0, rounding=Rounding.NEAREST).run(model, context).modified
        errors.append(np.square(Session.of(model, VNNI).run({"x": images[24:]})["y"] - before).sum())
    assert errors[0] < 0.6 * errors[1]
