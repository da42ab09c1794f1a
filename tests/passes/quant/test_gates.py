"""Gates are read off the levels of what they gate: nothing is computed in float, and nothing is rounded twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxslim.passes.dequantize import Dequantize
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.gates import FEWEST_LEVELS, GateInput, gate_ends, gate_scale
from onnxslim.passes.quant.integers import INT8, UINT8, IntegerType
from onnxslim.passes.quant.plan import LEFT
from onnxslim.passes.quant.scales import Activations, Calibration, Scale
from onnxslim.passes.quant.table import load_table
from quantized_models import optimized_ops
from sample_models import from_text
from story import HERE, make_context

from onnxslim.pipeline.interface import Change
from onnxslim.runtime.session import Session

PLAIN = {"float_time": 0.0, "equalize": False, "calibration": Calibration.MINMAX}
TYPES = (UINT8, INT8)


@given(
    low=st.floats(-50, 0),
    high=st.floats(0, 50),
    reach=st.floats(0.5, 8),
    spent=st.booleans(),
    integers=st.sampled_from(TYPES),
)
def test_ends_of_the_line_are_levels_and_levels_of_the_gate_are_those_of_its_input(
    low: float, high: float, reach: float, spent: bool, integers: IntegerType
) -> None:
    asked = GateInput(reach, spent)
    scale = asked.covering(low, high, integers)
    gate = gate_scale(scale, reach)
    assert gate is not None
    levels = np.arange(integers.lowest, integers.highest + 1)
    numbers = (levels - scale.zero_point) * np.float64(scale.scale)
    ends = gate_ends(gate)
    held = levels if ends is None else np.clip(levels, *(int(end) for end in ends))
    made = (held - gate.zero_point) * np.float64(gate.scale)
    np.testing.assert_allclose(made, np.clip(numbers / (2 * reach) + 0.5, 0, 1), atol=1e-6)
    wanted, covered = asked.limits(low, high), scale.interval
    steps = round(reach / float(scale.scale))
    assert covered[0] <= wanted[0] + scale.scale / 2
    assert covered[1] >= wanted[1] - scale.scale / 2
    if steps > FEWEST_LEVELS:  # not much coarser than any other scale that covers it
        assert scale.scale <= (1 + 1 / FEWEST_LEVELS) * Scale.covering(*wanted, integers).scale * (1 + 1e-5)


def net(
    body: str, opset: int = 17, spread: float = 3.0, **weights: np.ndarray
) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """What follows a convolution and leads into another, and samples; the first one makes numbers of that spread."""
    generator = np.random.default_rng(0)
    first = spread * generator.normal(size=(16, 8, 1, 1)) / np.sqrt(8)
    model = from_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,8,6,6] x) => (float[N,4,6,6] y) {{
            a = Conv (x, u) {body} y = Conv (h, v) }}""",
        u=first.astype(np.float32),
        v=(generator.normal(size=(4, 16, 1, 1)) / 4).astype(np.float32),
        **weights,
    )
    return model, {"x": generator.normal(size=(32, 8, 6, 6)).astype(np.float32)}


def quantized(model: ir.Model, feeds: dict[str, np.ndarray], **options: object) -> tuple[ir.Model, Change]:
    after = model.clone()
    change = Quant(**{**PLAIN, **options}).run(after, make_context(model, feeds, target=HERE))  # type: ignore[arg-type]
    return after, change


def error(model: ir.Model, after: ir.Model, feeds: dict[str, np.ndarray]) -> float:
    wanted, found = (Session.of(either, HERE).run(feeds)["y"] for either in (model, after))
    return float(np.square(wanted - found).sum() / np.square(wanted).sum())


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def left(change: Change) -> list[str]:
    return [note.reason for note in change.notes if note.action == LEFT]


SQUEEZE = """p = GlobalAveragePool (a) s = Conv (p, w) e = HardSigmoid <alpha = 0.2, beta = 0.5> (s) h = Mul (a, e)"""
BODIES = {
    "swish": "h = HardSwish (a)",
    "spelled out": "e = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a) h = Mul (e, a)",
    "squeeze and excite": SQUEEZE,
    "gate alone": "h = HardSigmoid <alpha = 0.1, beta = 0.5> (a)",
    "behind a maximum": "m = MaxPool <kernel_shape = [1, 1]> (a) h = HardSwish (m)",
    "read elsewhere": "e = HardSwish (a) h = Add (a, e)",
}


def weights_of(body: str) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(1).normal(size=(16, 16, 1, 1)).astype(np.float32)
    return {"w": drawn} if "w)" in body else {}


@pytest.mark.parametrize("body", BODIES)
def test_nothing_between_products_is_float(body: str, tmp_path: Path) -> None:
    model, feeds = net(BODIES[body], **weights_of(BODIES[body]))
    after, change = quantized(model, feeds)
    assert change.modified
    made = Counter(optimized_ops(after, tmp_path))
    assert not made.keys() & {"HardSigmoid", "HardSwish", "Mul"}
    assert (made["QuantizeLinear"], made["DequantizeLinear"]) == (1, 1)
    assert error(model, after, feeds) < 1e-3


@pytest.mark.parametrize("body", ["swish", "spelled out", "squeeze and excite"])
def test_what_is_made_of_levels_is_what_floats_would_be_rounded_to(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = net(BODIES[body], **weights_of(BODIES[body]))
    of_levels, _ = quantized(model, feeds)
    monkeypatch.setattr("onnxslim.passes.quant.insert.gate_scale", lambda *given: None)
    of_floats, _ = quantized(model, feeds)
    assert ops(of_floats)["HardSwish"] + ops(of_floats)["HardSigmoid"] == 1
    both = [Session.of(either, HERE, optimize=False).run(feeds)["y"] for either in (of_levels, of_floats)]
    levels = np.unique(both[0])
    assert (np.abs(both[0] - both[1]) < 1e-6).mean() > 0.98, "but where a product lies halfway between two levels"
    assert np.abs(both[0] - both[1]).max() < 2 * np.diff(levels).max()


def test_what_only_gates_read_has_levels_where_they_are_open() -> None:
    model, feeds = net(BODIES["swish"], spread=10.0)
    after, _ = quantized(model, feeds)
    (clip,) = (node for node in after.graph if node.op_type == "Clip")
    rounds = clip.inputs[0].producer()
    scale, zero = (value.const_value.numpy() for value in rounds.inputs[1:])
    assert -float(zero) * scale == pytest.approx(-3.0, rel=1e-6), "the lowest level is where the gate closes"


@pytest.mark.parametrize("body", ["swish", "gate alone"])
def test_what_is_an_output_as_well_keeps_what_is_below_the_gate(body: str) -> None:
    model, feeds = net(BODIES[body], spread=10.0)
    gate = next(node for node in model.graph if node.op_type.startswith("Hard"))
    read = gate.inputs[0]
    assert read is not None
    model.graph.outputs.append(read)
    read.type, read.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", 16, 6, 6])
    after, change = quantized(model, feeds)
    assert change.modified
    wanted, found = (Session.of(either, HERE).run(feeds)["a"] for either in (model, after))
    assert wanted.min() < -9
    assert np.square(wanted - found).sum() < 1e-3 * np.square(wanted).sum()


@pytest.mark.parametrize("clamp", ["Relu (a)", "Clip (a, zero, six)"])
def test_a_clamp_in_front_of_a_gate_is_still_the_kernel_s(clamp: str, tmp_path: Path) -> None:
    limits = {"zero": np.float32(0), "six": np.float32(6)} if "zero" in clamp else {}
    model, feeds = net(f"r = {clamp} h = HardSwish (r)", **limits)
    after, change = quantized(model, feeds)
    assert "r is nowhere below zero, where half of the line lies" in left(change)
    made = Counter(optimized_ops(after, tmp_path))
    assert made["QLinearConv"] == 2
    assert not made.keys() & {"Conv", "FusedConv", "Relu"}


def test_gates_that_levels_are_too_few_for_stay_float() -> None:
    model, feeds = net(BODIES["read elsewhere"], spread=60.0)
    after, change = quantized(model, feeds)
    assert ops(after)["HardSwish"] == 1
    assert any("its line has" in reason for reason in left(change))


@pytest.mark.parametrize(("spread", "gated"), [(0.01, False), (0.2, False), (1.0, True), (3.0, True)])
def test_what_is_narrower_than_the_line_is_not_rounded_to_its_levels(spread: float, gated: bool) -> None:
    model, feeds = net(BODIES["swish"], spread=spread)
    after, change = quantized(model, feeds)
    assert (ops(after)["HardSwish"] == 0) is gated
    assert any("would have steps" in reason for reason in left(change)) is not gated
    assert error(model, after, feeds) < 1e-3


def test_a_clamp_behind_a_gate_still_clamps() -> None:
    limits = {"zero": np.float32(0), "half": np.float32(0.5)}
    model, feeds = net("e = HardSigmoid <alpha = 0.2> (a) h = Clip (e, zero, half)", **limits)
    after, _ = quantized(model, feeds)
    assert error(model, after, feeds) < 1e-3


def test_of_gates_with_other_ends_one_is_made_of_levels() -> None:
    body = "e = HardSigmoid <alpha = 0.2, beta = 0.5> (a) g = HardSigmoid <alpha = 0.3, beta = 0.5> (a) h = Mul (e, g)"
    model, feeds = net(body)
    after, change = quantized(model, feeds)
    assert (ops(after)["HardSigmoid"], ops(after)["Clip"]) == (1, 1)
    assert "another op reads a, whose line has other ends" in left(change)
    assert error(model, after, feeds) < 1e-3


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("alpha = 0.2, beta = 0.4", "its kernel is for beta = 0.5"),
        ("alpha = 1e-30, beta = 0.5", "its kernel is for alpha = 0.001 to 1000"),
        ("alpha = -0.2, beta = 0.5", "its kernel is for alpha = 0.001 to 1000"),
    ],
)
def test_other_lines_stay_float(attributes: str, reason: str) -> None:
    model, feeds = net(f"e = HardSigmoid <{attributes}> (a) h = Add (a, e)")
    after, change = quantized(model, feeds)
    assert ops(after)["HardSigmoid"] == 1
    assert reason in left(change)


@pytest.mark.parametrize("activations", [Activations.UINT4, Activations.INT8, Activations.UINT16])
def test_levels_of_other_types_load_and_run(activations: Activations) -> None:
    model, feeds = net(BODIES["swish"], opset=21)
    after, change = quantized(model, feeds, activations=activations)
    assert change.modified
    assert ("Clip" in ops(after)) == (activations is Activations.UINT4)
    assert error(model, after, feeds) < (0.2 if activations is Activations.UINT4 else 1e-3)


def test_an_output_that_is_a_score_stays_float() -> None:
    model, feeds = net("h = HardSwish (a)")
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,6,6] x) => (float[N,16,6,6] y) {
        a = Conv (x, u) e = HardSigmoid (a) y = Mul (a, e) }"""
    model = from_text(text, u=model.graph.initializers["u"].const_value.numpy())
    after, _ = quantized(model, feeds)
    assert ops(after)["HardSigmoid"] == 1


@pytest.mark.parametrize("body", BODIES)
def test_dequantized_it_is_the_float_model(body: str) -> None:
    model, feeds = net(BODIES[body], **weights_of(BODIES[body]))
    after, _ = quantized(model, feeds)
    Dequantize().run(after, make_context(after, feeds, target=HERE))
    assert not ops(after).keys() & {"QuantizeLinear", "DequantizeLinear"}
    assert error(model, after, feeds) < 1e-3


def test_rows_say_which_gates_there_are() -> None:
    gates = {op_type: row.gate for op_type, row in load_table("cpu").rows.items() if row.gate is not None}
    assert set(gates) == {"HardSigmoid", "HardSwish"}
    assert not any(row.gate for name in ("tensorrt", "qnn", "qdq") for row in load_table(name).rows.values())
