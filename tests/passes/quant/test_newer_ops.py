"""What a model spells out because its operator set has no such op becomes one op, which is rounded once."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant, newer_ops, static
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.simplify import Simplify
from quantized_models import optimized_ops
from sample_models import from_text
from story import HERE, make_context

from onnxslim.errors import RunError
from onnxslim.pipeline.interface import Change
from onnxslim.pipeline.opset import OpsetCode
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import Selection
from onnxslim.runtime.session import Session

ERF = "d = Div (a, r) e = Erf (d) p = Add (e, one) m = Mul (a, p) h = Mul (m, half)"
ERF_WITHOUT_HALF = "d = Div (a, r) e = Erf (d) p = Add (e, one) h = Mul (a, p)"
TANH = """q = Mul (k, a) s = Mul (a, q) u = Mul (a, s) v = Add (a, u) l = Mul (c, v) t = Tanh (l)
    p = Add (t, one) m = Mul (half, p) h = Mul (a, m)"""
HARD_SWISH = "e = HardSigmoid <alpha = 0.16666667, beta = 0.5> (a) h = Mul (a, e)"
NUMBERS = {"r": np.sqrt(2), "one": 1, "half": 0.5, "k": 0.044715, "c": np.sqrt(2 / np.pi)}


def net(activation: str, opset: int = 17) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """A convolution, an activation as it is spelled out, and another convolution."""
    generator = np.random.default_rng(0)
    used = re.findall(r"\w+", activation)
    weights = {"w": generator.normal(size=(8, 3, 3, 3)) / 3, "x2": generator.normal(size=(4, 8, 1, 1)) / 3, **NUMBERS}
    model = from_text(
        f"""<ir_version: 7, opset_import: ["" : {opset}]> g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w) {activation} y = Conv (h, x2) }}""",
        **{name: np.asarray(weights[name], np.float32) for name in weights.keys() & {*used, "w", "x2"}},
    )
    feeds = {"x": generator.normal(size=(32, 3, 8, 8)).astype(np.float32)}
    Simplify().run(model, make_context(model, feeds, target=HERE))
    return model, feeds


def quantized(activation: str, opset: int = 17, **options: object) -> tuple[ir.Model, Change, float]:
    """Return the model, what was done, and the share of its outputs that is lost."""
    model, feeds = net(activation, opset)
    after = model.clone()
    change = Quant(**options).run(after, make_context(model, feeds, target=HERE))  # type: ignore[arg-type]
    wanted, found = (Session.of(either, HERE).run(feeds)["y"] for either in (model, after))
    return after, change, float(np.square(wanted - found).sum() / np.square(wanted).sum())


def raised(model: ir.Model, feeds: dict[str, np.ndarray], *wanted: str) -> newer_ops.NewerOps:
    context = make_context(model, feeds, target=HERE)
    return newer_ops.with_newer_ops(model, wanted, lambda own: Selection((), (), own, model), context)


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def remarks(change: Change, subject: str) -> list[tuple[str, str]]:
    return [(note.action, str(note.reason)) for note in change.notes if note.subject == subject]


@pytest.mark.parametrize(
    ("activation", "opset", "parts"),
    [(ERF, 17, {"Erf"}), (ERF, 13, {"Erf"}), (ERF_WITHOUT_HALF, 17, {"Erf"}), (TANH, 15, {"Tanh"})],
)
def test_a_gelu_between_q_and_dq_is_one_op(activation, opset, parts):
    after, change, lost = quantized(activation, opset)
    assert after.graph.opset_imports[""] == 20
    assert ops(after)["Gelu"] == 1
    assert not ops(after).keys() & (parts | {"Mul", "Add", "Div"})
    (gelu,) = (node for node in after.graph if node.op_type == "Gelu")
    assert gelu.inputs[0].producer().op_type == "DequantizeLinear"
    assert [use.node.op_type for use in gelu.outputs[0].uses()] == ["QuantizeLinear"]
    assert ("opset 20", "for 1 Gelu: one op there, which is rounded once") in remarks(change, "model")
    assert lost < 1e-3


def test_it_takes_fewer_roundings_than_its_parts(monkeypatch):
    whole, _, _ = quantized(ERF)
    monkeypatch.setattr(static, "with_newer_ops", lambda model, *_: newer_ops.NewerOps(model, {}))
    parts, _, _ = quantized(ERF)
    assert ops(parts)["Erf"] == 1
    assert ops(whole)["QuantizeLinear"] < ops(parts)["QuantizeLinear"]


def test_a_model_that_spells_nothing_out_keeps_its_operator_set():
    model, feeds = net("h = Relu (a)")
    found = raised(model, feeds, "Gelu")
    assert found.model is model
    assert not found.counts


def test_the_oldest_operator_set_that_serves_is_taken():
    model, feeds = net(HARD_SWISH, 13)
    found = raised(model, feeds, "Gelu", "HardSwish")
    assert found.model.graph.opset_imports[""] == 17
    assert found.counts == {"HardSwish": 1}
    assert model.graph.opset_imports[""] == 13, "what came in is as it was"
    assert ops(model)["HardSigmoid"] == 1


def test_the_target_says_which_ops_it_wants_whole():
    assert quantized(HARD_SWISH, 13)[0].graph.opset_imports[""] == 13
    after, change, _ = quantized(HARD_SWISH, 13, target="qnn")
    assert ops(after)["HardSwish"] == 1
    assert ("opset 17", "for 1 HardSwish: one op there, which is rounded once") in remarks(change, "model")


def test_what_onnx_cannot_convert_is_quantized_as_it_is(monkeypatch):
    reason = Reason(OpsetCode.NOT_CONVERTED, (17, "no adapter"))
    monkeypatch.setattr(newer_ops, "upgraded", lambda *_: reason)
    after, change, lost = quantized(ERF)
    assert after.graph.opset_imports[""] == 17
    assert remarks(change, "opset") == [("left alone", "it has opset 17, and onnx cannot convert it: no adapter")]
    assert change.modified
    assert lost < 1e-3


def test_a_conversion_that_changes_the_outputs_is_thrown_away(monkeypatch):
    def wrong(model, opset):
        raised = upgraded(model, opset)
        weight = raised.graph.initializers["w"]
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01))
        return raised

    upgraded = newer_ops.upgraded
    monkeypatch.setattr(newer_ops, "upgraded", wrong)
    after, change, lost = quantized(ERF)
    assert after.graph.opset_imports[""] == 17
    ((action, why),) = remarks(change, "opset")
    assert (action, why[:36]) == ("left alone", "at opset 20 the outputs would change")
    assert lost < 1e-3


@pytest.mark.parametrize("name", ["Erf", "e", "m"])
def test_parts_that_are_excluded_stay(name):
    after, change, _ = quantized(ERF, exclude=(name,))
    assert after.graph.opset_imports[""] == 17
    assert ops(after)["Erf"] == 1
    assert [layer.layer for layer in change.layers] == ["a", "y"], "what follows is not excluded with it"


def test_where_a_part_of_one_is_excluded_the_others_stay_as_well():
    """At the newer operator set `simplify` would make one op of it all the same."""
    second = "d2 = Div (g, r) e2 = Erf (d2) p2 = Add (e2, one) m2 = Mul (g, p2) h = Mul (m2, half)"
    after, _, _ = quantized(f"{ERF.replace('h =', 'g =')} {second}", exclude=("e",))
    assert ops(after)["Erf"] == 2


def test_what_was_made_stays_where_a_newer_operator_set_is_not_to_be_had(monkeypatch):
    convert = newer_ops.upgraded
    reason = Reason(OpsetCode.NOT_CONVERTED, (17, "no adapter"))
    monkeypatch.setattr(newer_ops, "upgraded", lambda model, opset: reason if opset > 17 else convert(model, opset))
    both = f"{HARD_SWISH.replace('e =', 'g =').replace('a, e', 'a, g').replace('h =', 'n =')} {ERF.replace('(a', '(n')}"
    after, change, _ = quantized(both, 13, target="qdq")
    assert after.graph.opset_imports[""] == 17
    assert ops(after)["HardSwish"] == 1
    assert [action for action, _ in remarks(change, "opset")] == ["left alone"]


def test_a_converted_model_that_does_not_run_is_thrown_away(monkeypatch):
    def fails(*_):
        raise RunError("no kernel")

    monkeypatch.setattr(static, "deviation", fails)
    after, change, _ = quantized(ERF)
    assert after.graph.opset_imports[""] == 17
    assert remarks(change, "opset") == [("left alone", "no kernel")]


def test_outputs_that_are_not_finite_tell_nothing(monkeypatch):
    monkeypatch.setattr(static, "deviation", lambda *_: float("nan"))
    after, change, _ = quantized(ERF)
    assert after.graph.opset_imports[""] == 17
    assert len(remarks(change, "opset")) == 1


@pytest.mark.parametrize(("op_type", "one"), [("Gelu", True), ("HardSwish", False), ("Mish", False)])
def test_the_cpu_wants_whole_what_it_has_a_kernel_for(op_type, one, tmp_path):
    model = from_text(
        f"""<ir_version: 9, opset_import: ["" : 20]> g (uint8[4] x) => (uint8[4] y) {{
        f = DequantizeLinear (x, s, z) a = {op_type} (f) y = QuantizeLinear (a, s, z) }}""",
        s=np.float32(0.1),
        z=np.uint8(100),
    )
    found = optimized_ops(model, tmp_path)
    assert (found == ["DequantizeLinear", op_type, "QuantizeLinear"]) is one
    assert (op_type in load_table("cpu").whole) is one


def test_onnx_runtime_does_not_fuse_a_gelu_behind_dequantize_linear(tmp_path):
    """Why it is written as one op: of the same chain in float it makes one kernel by itself."""
    chain = ERF.replace("(a, ", "(f, ")
    pairs = """f = DequantizeLinear (x, s, z) {} y = QuantizeLinear (h, s, z)"""
    numbers = {name: np.float32(number) for name, number in NUMBERS.items() if name in ("r", "one", "half")}
    header = '<ir_version: 9, opset_import: ["" : 17]> g'
    inside = from_text(
        f"{header} (uint8[4] x) => (uint8[4] y) {{ {pairs.format(chain)} }}",
        s=np.float32(0.1),
        z=np.uint8(100),
        **numbers,
    )
    alone = from_text(f"{header} (float[4] f) => (float[4] h) {{ {chain} }}", **numbers)
    assert "Erf" in optimized_ops(inside, tmp_path)
    assert optimized_ops(alone, tmp_path) == ["Gelu"]
