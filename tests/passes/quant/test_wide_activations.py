"""Where everything is quantized, the ops that cost the outputs most compute on activations of 16 bits."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.checker
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.cost import Boundary, PlanCosts, PrecisionCost
from onnxslim.passes.quant.plan import make_plan, sites_of
from onnxslim.passes.quant.scales import Activations, Calibration
from onnxslim.passes.quant.sensitivity import PartErrors
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.wide_activations import wide_activations
from sample_models import from_text
from story import VNNI, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.pipeline.interface import Change
from onnxslim.runtime.session import Session

NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,6,6] x) => (float[N,8,6,6] y) {
    a = Conv (x, u)  p = Relu (a)  b = Conv (p, v)  q = Relu (b)  c = Conv (q, w)  r = Relu (c)  y = Conv (r, k) }"""
KEYS = ("a", "b", "c", "y")


def net() -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Return four layers of which the first makes one channel some hundred times as large as the others."""
    generator = np.random.default_rng(0)

    def weight(outputs: int, inputs: int) -> np.ndarray:
        return (generator.normal(size=(outputs, inputs, 1, 1)) / np.sqrt(inputs)).astype(np.float32)

    first, second = weight(16, 3), weight(16, 16)
    first[0] *= 300
    second[:, 0] /= 300
    model = from_text(NET, u=first, v=second, w=weight(32, 16), k=weight(8, 32))
    infer_shapes(model)
    return model, {"x": generator.normal(size=(32, 3, 6, 6)).astype(np.float32)}


def written(**options) -> tuple[ir.Model, Change, float]:
    """Return what is written for QNN, what was done, and the share of its outputs that is lost."""
    model, feeds = net()
    after = model.clone()
    given = {"target": "qnn", "calibration": Calibration.MINMAX, "equalize": False, **options}
    change = Quant(**given).run(after, make_context(model, feeds, target=VNNI))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    wanted, found = (Session.of(either, VNNI).run(feeds)["y"] for either in (model, after))
    return after, change, float(np.square(wanted - found).sum() / np.square(wanted).sum())


def types(model: ir.Model) -> dict[str, str]:
    """Return the element type on which each convolution reads its activations."""
    found = {}
    for node in model.graph:
        if node.op_type == "Conv":
            levels = node.inputs[0].producer().inputs[0]
            found[node.inputs[1].producer().inputs[0].name] = levels.dtype.name
    return found


def told(change: Change) -> list[str]:
    return [note.action for note in change.notes if note.subject == "activations"]


def test_the_ops_that_cost_most_get_16_bits_within_the_time() -> None:
    _, change, lost = written(float_time=0.0)
    assert told(change) == []
    after, change, less = written(float_time=0.6)
    assert told(change) == ["uint16 in 2 of 4 ops"]
    assert types(after) == {"u": "UINT16", "v": "UINT16", "w": "UINT8", "k": "UINT8"}
    assert less < 0.1 * lost
    assert not [note for note in change.notes if note.action == "left in float"]


def test_what_is_read_in_fewer_bits_than_it_is_made_in_is_converted() -> None:
    after, _, _ = written(float_time=0.6)
    third = [node for node in after.graph if node.op_type == "Conv"][2]
    node, steps = third.inputs[0].producer(), []
    while node is not None and node.op_type != "Conv":
        steps.append((node.op_type, (node.outputs[0].dtype or ir.DataType.UNDEFINED).name))
        node = node.inputs[0].producer()
    assert steps == [
        ("DequantizeLinear", "FLOAT"),
        ("QuantizeLinear", "UINT8"),
        ("DequantizeLinear", "FLOAT"),
        ("QuantizeLinear", "UINT16"),
    ]


def test_milder_forms_widen_before_they_leave_layers_in_float() -> None:
    shares = []
    for error in (1.0, 0.3, 0.05):
        _, change, lost = written(error=error, float_time=0.0)
        shares.append(lost)
        assert len(change.layers) == 4
    assert shares == sorted(shares, reverse=True)
    assert shares[1] < 0.35 * shares[0]
    assert shares[2] < 0.1 * shares[0]


@pytest.mark.parametrize("options", [{"activations": Activations.UINT8}, {"target": "qdq"}])
def test_who_names_a_type_gets_it_and_targets_without_a_wider_one_have_none(options) -> None:
    after, change, _ = written(**options, float_time=0.6)
    assert told(change) == []
    assert after.graph.opset_imports[""] == 17
    assert set(types(after).values()) == {"UINT8"}


def test_all_activations_have_16_bits_where_that_is_asked_for() -> None:
    after, _, lost = written(activations=Activations.UINT16)
    assert set(types(after).values()) == {"UINT16"}
    assert lost < 0.1 * written(activations=Activations.UINT8)[2]  # what is left are the weights' 8 bits


@given(
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
    st.lists(st.floats(0, 0.1), min_size=4, max_size=4),
    st.floats(0, 0.9),
    st.floats(0.01, 1),
)
def test_the_time_is_kept_unless_more_error_must_go(
    of_tensors: list[float], of_weights: list[float], time: float, share: float
) -> None:
    model, _ = net()
    plan = make_plan(model, load_table("qnn"))
    errors = PartErrors(dict(zip("xpqry", of_tensors, strict=True)), dict(zip(KEYS, of_weights, strict=True)))
    edges = tuple(Boundary(one, frozenset({two}), False, 1.0, 1.0) for one, two in itertools.pairwise(KEYS))
    costs = PlanCosts({key: PrecisionCost(9.0, 2.0 + index, 4, 1) for index, key in enumerate(KEYS)}, edges)
    found = wide_activations(plan, errors, costs, time, share)
    added = sum(2.0 + KEYS.index(key) for key in found.sites)
    assert found.sites <= sites_of(plan).keys()
    assert found.errors.weights == errors.weights
    assert share < 1 or added <= time * 14 + 1e-6
    everything = found.sites == set(KEYS)
    assert everything or found.errors.total <= share * errors.total + 1e-3 * sum(of_tensors) + 1e-9


def test_a_relu_goes_with_its_layer_where_that_is_left_in_float() -> None:
    after, change, lost = written(target="qdq", error=0.01)
    reasons = {note.subject: note.code for note in change.notes if note.action == "left in float"}
    alone = {node.outputs[0].name or "" for node in after.graph if node.op_type == "Relu"}
    assert alone
    assert {reasons[name] for name in alone} == {"of-float-layer"}
    assert lost < 0.02 * written(target="qdq")[2]
