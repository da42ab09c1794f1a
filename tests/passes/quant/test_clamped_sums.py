"""What is left of an operand behind the clamp of its sum decides which levels it gets."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.quant.clamped_sums import QUANTILES, clamped_sums
from onnxslim.passes.quant.intervals import Histogram, mse_interval
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.table import load_table
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Floats
from onnxslim.observe.statistics import BINS, Grid

TABLE = load_table("cpu")
GENERATOR = np.random.default_rng(0)


def net(body: str) -> ir.Model:
    weights = {name: GENERATOR.normal(size=(4, 4, 1, 1)).astype(np.float32) for name in "uvw"}
    if "Clip" in body:
        weights |= {"low": np.float32(0), "high": np.float32(2)}
    model = from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,6,6] x) => (float[N,4,6,6] y) {{
            a = Conv (x, u) b = Conv (x, v) {body} y = Conv (s, w) }}""",
        **weights,
    )
    infer_shapes(model)
    return model


def histogram_of(array: Floats) -> Histogram:
    grid = Grid.covering(float(array.min()), float(array.max()))
    bins = np.clip(np.rint(array / grid.width) + grid.zero, 0, BINS - 1).astype(int)
    return Histogram(np.bincount(bins, minlength=BINS).astype(float), grid)


def curves_of(body: str, a: Floats, b: Floats) -> dict[str, Floats]:
    histograms = {"a": histogram_of(a), "b": histogram_of(b)}
    return clamped_sums(make_plan(net(body), TABLE), TABLE, histograms)


def test_levels_are_not_spent_on_what_a_relu_cuts_off() -> None:
    a, b = np.maximum(GENERATOR.normal(size=50_000), 0), GENERATOR.uniform(-20, 4, 50_000)
    found = curves_of("c = Add (a, b) s = Relu (c)", a, b)
    assert found["b"].shape == (QUANTILES, BINS)
    whole = histogram_of(b)
    told = Histogram(whole.counts, whole.grid, found["b"], certain=False)
    (low, high), plain = mse_interval(told, 255), mse_interval(whole, 255)
    assert plain[0] < -19
    assert -a.max() - 0.5 < low < -1
    assert high > 3.9

    def error(interval: tuple[float, float]) -> float:
        step = (interval[1] - interval[0]) / 255
        levels = np.clip(np.rint(b / step) * step, *interval)
        return float(np.square(np.maximum(a + levels, 0) - np.maximum(a + b, 0)).mean())

    assert error((low, high)) < 0.3 * error(plain)


def test_curves_are_what_is_left_of_the_sum_with_either_operand() -> None:
    a, b = GENERATOR.normal(size=20_000), GENERATOR.normal(size=20_000) - 1
    found = curves_of("c = Add (a, b) s = Clip (c, low, high)", a, b)
    assert found.keys() == {"a", "b"}
    centers = histogram_of(b).centers
    mean_square = [np.square(np.clip(a + center, 0, 2)).mean() for center in centers[::512]]
    np.testing.assert_allclose(np.square(found["b"]).sum(axis=0)[::512], mean_square, atol=0.12)
    assert found["a"].max() * np.sqrt(QUANTILES) == pytest.approx(2)


@pytest.mark.parametrize(
    "body",
    [
        "s = Add (a, b)",
        "c = Add (a, b) s = Relu (c) z = Conv (a, u) t = Conv (b, u)",
        "c = Mul (a, b) s = Relu (c)",
        "c = Add (a, b) s = Sigmoid (c)",
    ],
)
def test_what_is_read_otherwise_counts_as_it_is(body: str) -> None:
    a, b = GENERATOR.normal(size=2_000), GENERATOR.normal(size=2_000)
    assert not curves_of(body, a, b)


def test_histograms_tell_what_is_cut_off_and_what_is_rounded() -> None:
    array = np.maximum(GENERATOR.normal(size=50_000), -0.5)
    array[:10_000] = 0
    plain = histogram_of(array)
    for low, high in ((-0.5, 6.0), (-0.2, 1.0), (0.0, 2.0)):
        wanted = np.square(array - np.clip(array, low, high)).mean()
        assert plain.cut(low, high) == pytest.approx(wanted, rel=0.02, abs=1e-6)
    assert plain.rounded == pytest.approx((array != 0).mean(), abs=0.001)
    halved = Histogram(plain.counts, plain.grid, plain.centers[None] / 2)
    assert halved.cut(-0.2, 1.0) == pytest.approx(plain.cut(-0.2, 1.0) / 4)
    assert halved.rounded == pytest.approx(plain.rounded / 4)
    assert Histogram(np.zeros(BINS), Grid(1.0, 0)).rounded == 0
    assert Histogram(np.zeros(BINS), Grid(1.0, 0)).cut(0.0, 1.0) == 0
