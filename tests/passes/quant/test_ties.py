"""Sums and joins on the steps of what they read: where that rounds less, never where it undoes a clamp."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.integers import INT8, UINT8
from onnxslim.passes.quant.intervals import Histogram
from onnxslim.passes.quant.plan import QuantPlan, make_plan
from onnxslim.passes.quant.scales import Calibration, Scale
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.ties import SeenTensor, with_ties
from sample_models import from_text
from story import HERE, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Floats
from onnxslim.model.constants import constant
from onnxslim.observe.statistics import BINS, Grid
from onnxslim.runtime.session import Session

ADD = "c = Add (a, b) s = Relu (c)"
CONCAT = "s = Concat <axis = 1> (a, b)"


def net(body: str, width: int = 4) -> ir.Model:
    """What joins two products, `a` and `b`, and leads as `s`, of so many channels, into another."""
    generator = np.random.default_rng(0)
    weights = {name: generator.normal(size=(4, 4, 1, 1)).astype(np.float32) / 2 for name in "uv"}
    model = from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,6,6] x) => (float[N,4,6,6] y) {{
            a = Conv (x, u) b = Conv (x, v) {body} y = Conv (s, w) }}""",
        **weights,
        w=generator.normal(size=(4, width, 1, 1)).astype(np.float32),
    )
    infer_shapes(model)
    return model


def seen_of(array: Floats, limits: tuple[float, float] = (-math.inf, math.inf)) -> SeenTensor:
    grid = Grid.covering(float(array.min()), float(array.max()))
    bins = np.clip(np.rint(array / grid.width) + grid.zero, 0, BINS - 1).astype(int)
    return SeenTensor(Histogram(np.bincount(bins, minlength=BINS).astype(float), grid), limits)


def tied(
    plan: QuantPlan, arrays: Mapping[str, Floats], limits: Mapping[str, tuple[float, float]] | None = None
) -> tuple[dict[str, Scale], dict[str, Scale]]:
    """Return the scales that cover all, and those that ties make of them."""
    seen = {name: seen_of(array, (limits or {}).get(name, (-math.inf, math.inf))) for name, array in arrays.items()}
    free = {name: Scale.covering(float(each.min()), float(each.max()), UINT8) for name, each in arrays.items()}
    free |= {
        name: Scale.covering(-1, 1, UINT8) for group in plan.groups if (name := group.source.name or "") not in free
    }
    return free, with_ties(plan, free, seen)


def rounded(array: Floats, scale: Scale) -> Floats:
    return (scale.quantize(array.astype(np.float32)).astype(np.float64) - scale.zero_point) * float(scale.scale)


def sum_error(a: Floats, b: Floats, scales: Mapping[str, Scale]) -> float:
    made = rounded(rounded(a, scales["a"]) + rounded(b, scales["b"]), scales["s"])
    return float(np.square(made - np.maximum(a + b, 0)).mean())


@given(widths=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)), seed=st.integers(0, 9))
def test_what_is_tied_is_rounded_less(widths: tuple[float, float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = (generator.uniform(-width, width, 20_000) for width in widths)
    free, found = tied(make_plan(net(ADD), load_table("cpu")), {"a": a, "b": b, "s": np.maximum(a + b, 0)})
    steps = {found[name].scale for name in "abs"}
    assert len(steps) == 1 or found == free
    if len(steps) == 1:
        assert sum_error(a, b, found) < 1.05 * sum_error(a, b, free)
        total = rounded(a, found["a"]) + rounded(b, found["b"])
        np.testing.assert_allclose(rounded(total, found["s"]), np.clip(total, *found["s"].interval), atol=1e-5)


def test_operands_of_about_one_width_are_tied_and_narrow_ones_stay_fine() -> None:
    generator = np.random.default_rng(0)
    a, plan = generator.uniform(-2, 2, 20_000), make_plan(net(ADD), load_table("cpu"))
    for width, wanted in ((1.6, 1), (0.2, 3)):
        b = generator.uniform(-width, width, 20_000)
        free, found = tied(plan, {"a": a, "b": b, "s": np.maximum(a + b, 0)})
        assert len({found[name].scale for name in "abs"}) == wanted
        assert sum_error(a, b, found) <= sum_error(a, b, free)
        assert found["s"].zero_point == 0, "the Relu is where the levels end"


def test_a_step_may_cut_off_what_costs_less_than_it_saves() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(-2, 2, (2, 20_000))
    a[0] = 2.2  # one of many
    plan, arrays = make_plan(net(ADD), load_table("cpu")), {"a": a, "b": b, "s": np.maximum(a + b, 0)}
    free, whole = tied(plan, arrays)
    free["a"] = Scale.covering(-2.2, 2.2, UINT8)
    cut = with_ties(plan, free, {name: seen_of(array) for name, array in arrays.items()}, 1.0)
    assert cut["a"].scale == cut["b"].scale == cut["s"].scale < free["a"].scale
    assert sum_error(a, b, cut) < sum_error(a, b, whole)


def test_parts_of_joins_are_copied_and_never_unclamped() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(-1, 1.6, 20_000), generator.uniform(-1.2, 2, 20_000)
    plan = make_plan(net(CONCAT, 8), load_table("cpu"))
    joined = np.concatenate([a, b])
    _, found = tied(plan, {"a": a, "b": b, "s": joined})
    assert found["a"] == found["b"] == found["s"]
    _, found = tied(plan, {"a": np.maximum(a, 0), "b": b, "s": joined}, {"a": (0.0, math.inf)})
    assert found["b"] == found["s"] != found["a"]
    assert found["a"].zero_point == 0


def test_a_part_that_others_read_stays_finer() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(-1, 1, 20_000), generator.uniform(-4, 4, 20_000)
    arrays = {"a": a, "b": b, "s": np.concatenate([a, b])}
    free, found = tied(make_plan(net(CONCAT, 8), load_table("cpu")), arrays)
    assert found["a"] == found["s"], "rounding it finely is in vain"
    arrays |= {"z": b, "s": np.concatenate([a, b, b])}
    body = "z = Conv (a, u) s = Concat <axis = 1> (a, b, z)"  # 1 of a becomes 4 of z
    free, found = tied(make_plan(net(body, 12), load_table("cpu")), arrays)
    assert found["a"] == free["a"]
    assert found["z"] == found["b"] == found["s"]


def test_what_is_picked_element_by_element_is_a_join() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(-1, 1.6, 20_000), generator.uniform(-1.2, 2, 20_000)
    body = "k = Greater (x, x) s = Where (k, a, b)"
    plan = make_plan(net(body), load_table("qnn"))
    _, found = tied(plan, {"a": a, "b": b, "s": np.where(a > 0, a, b)})
    assert found["a"] == found["b"] == found["s"]


def test_zero_points_of_symmetric_levels_stay_zero() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(-2, 2, 20_000), generator.uniform(-1.6, 1.6, 20_000)
    plan, arrays = make_plan(net(ADD), load_table("cpu")), {"a": a, "b": b, "s": np.maximum(a + b, 0)}
    free = {group.source.name or "": Scale.covering(-2, 2, INT8, True) for group in plan.groups}
    free |= {"b": Scale.covering(-1.6, 1.6, INT8, True), "s": Scale.covering(0, 2.1, INT8, True)}
    found = with_ties(plan, free, {name: seen_of(array) for name, array in arrays.items()}, symmetric=True)
    assert found["a"].scale == found["b"].scale == found["s"].scale
    assert {found[name].zero_point for name in "abs"} == {0}


PADS = "pads = [1, 1, 1, 1]"
RESIDUAL = f"""a = Conv <{PADS}> (x, u0) s0 = Clip (a, low, high)
b = Conv <{PADS}> (s0, u1) c = Relu (b) d = Conv <{PADS}> (c, u2) e = Add (d, s0) s1 = Clip (e, low, high)
f = Conv <{PADS}> (s1, u3) h = Relu (f) i = Conv <{PADS}> (h, u4) j = Add (i, s1) s2 = Clip (j, low, high)
"""


def residual() -> tuple[ir.Model, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    weights = {f"u{index}": (generator.normal(size=(8, 8, 3, 3)) * 0.12).astype(np.float32) for index in range(5)}
    weights |= {name: weights[name] * np.float32(0.7) for name in ("u2", "u4")}  # what the branches end with
    weights |= {"low": np.float32(0), "high": np.float32(2.5)}
    weights["w"] = generator.normal(size=(4, 8, 1, 1)).astype(np.float32)
    model = from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,8,8] x) => (float[N,4,8,8] y) {{
            {RESIDUAL} y = Conv (s2, w) }}""",
        **weights,
    )
    return model, {"x": generator.normal(size=(32, 8, 8, 8)).astype(np.float32)}


def error(model: ir.Model, after: ir.Model) -> float:
    feeds = {"x": np.random.default_rng(1).normal(size=(64, 8, 8, 8)).astype(np.float32)}
    wanted, found = (Session.of(either, HERE).run(feeds)["y"] for either in (model, after))
    return float(np.square(wanted - found).sum() / np.square(wanted).sum())


def quantized(model: ir.Model, feeds: Mapping[str, np.ndarray], calibration: Calibration) -> ir.Model:
    after = model.clone()
    step = Quant(calibration=calibration, float_time=0.0, equalize=False)
    assert step.run(after, make_context(model, dict(feeds), target=HERE)).modified
    return after


def steps(value: ir.Value | None) -> float:
    """Return the step of the tensor that holds the levels of `value`."""
    assert value is not None
    node = value.producer()
    node = node if node is not None else next(use.node for use in value.uses())
    scale = constant(node.inputs[1])
    assert scale is not None
    return float(scale.reshape(()))


def test_a_residual_stream_is_rounded_once_for_each_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = residual()
    after = quantized(model, feeds, Calibration.MSE)
    sums = [node for node in after.graph if node.op_type == "Add"]
    assert len(sums) == 2
    assert len({steps(value) for node in sums for value in node.inputs}) == 1
    monkeypatch.setattr("onnxslim.passes.quant.calibration.with_ties", lambda plan, scales, *rest: dict(scales))
    assert error(model, after) < 0.95 * error(model, quantized(model, feeds, Calibration.MSE))


def wider(factor: float) -> Callable[..., dict[str, Scale]]:
    """In the place of ties: all steps so many times as wide."""

    def made(plan: QuantPlan, scales: Mapping[str, Scale], *rest: object) -> dict[str, Scale]:
        return {
            name: Scale(np.float32(scale.scale * factor), scale.zero_point, UINT8) for name, scale in scales.items()
        }

    return made


def test_ties_that_cost_the_outputs_more_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = residual()
    monkeypatch.setattr("onnxslim.passes.quant.calibration.with_ties", wider(8))
    assert error(model, quantized(model, feeds, Calibration.AUTO)) < 1e-3
    assert error(model, quantized(model, feeds, Calibration.MSE)) > 3e-3, "what is chosen by no measurement stays"


def test_ties_that_cost_hardly_more_are_kept_because_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = residual()
    made: list[float] = []

    def noted(*given: Any) -> dict[str, Scale]:
        scales = wider(1.02)(*given)
        made.extend(float(scale.scale) for scale in scales.values())
        return scales

    monkeypatch.setattr("onnxslim.passes.quant.calibration.with_ties", noted)
    after = quantized(model, feeds, Calibration.AUTO)
    read = [steps(value) for node in after.graph if node.op_type == "Add" for value in node.inputs]
    assert read
    assert set(read) <= set(made)
