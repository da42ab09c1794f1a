"""The milder form: layers that cost the outputs much for their size stay float, and are named."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.cost import PlanCosts, PrecisionCost
from onnxslim.passes.quant.integers import INT8
from onnxslim.passes.quant.layer_table import plan_table
from onnxslim.passes.quant.mixed import CostLimits, RoundingError, best_within, cheapest_below
from onnxslim.passes.quant.plan import QuantPlan, make_plan
from onnxslim.passes.quant.scales import Calibration
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.weight_only.grids import WeightType
from onnxslim.passes.quant.weights import Rounding
from sample_models import from_text
from story import make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples
from onnxslim.errors import BadOptionValue
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

VNNI = Target("cpu", "a processor", "avx512_vnni", 1)


def net(seed=0):
    """Return three convolutions of which the second sees one value a thousand times as large as all others."""
    generator = np.random.default_rng(seed)

    def weight(outputs, inputs, size):
        return (generator.normal(size=(outputs, inputs, size, size)) / size / np.sqrt(inputs)).astype(np.float32)

    first = weight(16, 3, 3)
    first[0] *= 300
    second = weight(16, 16, 1)
    second[:, 0] /= 300
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,12,12] x) => (float[N,8,12,12] y) {
        a = Conv <pads = [1,1,1,1]> (x, u)  p = Relu (a)  b = Conv (p, v)  q = Relu (b)
        c = Conv <pads = [1,1,1,1]> (q, w)  r = Relu (c)  y = Conv <pads = [1,1,1,1]> (r, k) }"""
    model = from_text(text, u=first, v=second, w=weight(32, 16, 3), k=weight(8, 32, 3))
    for node, name in zip((node for node in model.graph if node.op_type == "Conv"), "ABCD", strict=True):
        node.name = name
    return model, {"x": generator.normal(size=(32, 3, 12, 12)).astype(np.float32)}


def quantized(model, feeds, **options):
    after = model.clone()
    infer_shapes(after)
    samples = open_samples(feeds, Session.of(model, VNNI).inputs)
    context = make_context(model, samples, target=VNNI)
    change = Quant(**options).run(after, context)
    return after, change


def error(model, after, feeds):
    (name,) = (value.name for value in model.graph.outputs)
    wanted, found = (Session.of(each, VNNI).run(feeds)[name] for each in (model, after))
    return float(np.square(wanted - found).sum() / np.square(wanted).sum())


def test_the_layer_that_costs_most_stays_float():
    model, feeds = net()
    full, whole = quantized(model, feeds)
    after, change = quantized(model, feeds, error=0.5)
    named = {note.subject: note.reason for note in change.notes if "of the error" in note.reason}
    assert set(named) == {"A", "B"}, "one scale for values that differ by 300 times lies between them"
    assert "together with b it brings" in named["A"]
    assert "of the products" in named["B"]
    assert error(model, after, feeds) < 0.5 * error(model, full, feeds)
    assert {layer.layer for layer in whole.layers} == {"A", "B", "C", "D"}
    assert {layer.layer for layer in change.layers} == {"C", "D"}
    assert {(layer.quantity, layer.before, layer.after) for layer in change.layers} == {("bits", 32, 8)}
    shares = [note.action for note in change.notes if note.subject == "model"]
    assert shares
    assert shares[0].endswith("of the multiply-accumulates in int8")


def test_the_milder_the_less_is_lost_and_the_less_runs_in_int8():
    model, feeds = net()
    strengths = [1.0, 0.7, 0.3, 0.05]
    forms = [Quant().milder(strength) for strength in strengths]
    assert [form.error for form in forms] == [strength**2 for strength in strengths]
    made = [quantized(model, feeds, **dataclasses.asdict(form)) for form in forms]
    errors = [error(model, after, feeds) for after, _ in made]
    assert errors == sorted(errors, reverse=True)
    counts = [len(change.layers) for _, change in made]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_no_milder_form_loses_more_than_the_form_that_is_asked_for():
    model, feeds = net()
    errors = []
    for strength in (1.0, 0.999, 0.95):
        after, _ = quantized(model, feeds, **dataclasses.asdict(Quant(float_time=0.5).milder(strength)))
        errors.append(error(model, after, feeds))
    assert errors[1] <= errors[0] * 1.001, "what float_time allows stays in float whatever the share is"
    assert errors[2] <= errors[0] * 1.001


def test_what_is_excluded_stays_so():
    model, feeds = net()
    _, change = quantized(model, feeds, error=0.5, exclude=("D",))
    assert {layer.layer for layer in change.layers} <= {"A", "C"}
    _, change = quantized(model, feeds, error=0.5, include=("C", "D"))
    assert {layer.layer for layer in change.layers} <= {"C", "D"}


def costing(added):
    """Return costs of layers that take nothing in int8, and in float a millisecond for each byte of their weights."""
    layers = {key: PrecisionCost(float(time), 0.0, int(time), 0) for key, time in added.items()}
    return PlanCosts(layers)


def within(errors, costs, budget):
    return best_within(errors, costs, CostLimits(budget))


def test_the_cheapest_layers_that_bring_enough_go():
    large, small, harmless = (frozenset({name}) for name in ("large", "small", "harmless"))
    costs = costing({"large": 1000, "small": 10, "harmless": 1000})
    errors = (RoundingError(large, 0.5), RoundingError(small, 0.4), RoundingError(harmless, 0.1))
    assert cheapest_below(errors, costs, 0.7) == {"small"}
    assert cheapest_below(errors, costs, 0.5) == {"large"} or cheapest_below(errors, costs, 0.5) == {
        "small",
        "harmless",
    }
    assert cheapest_below(errors, costs, 0.15) == {"small", "large"}
    assert not cheapest_below(errors, costs, 1.0)
    assert not cheapest_below((RoundingError(large, 0.0),), costs, 0.5)


def test_a_tensor_between_layers_is_float_where_all_of_them_are():
    errors = (
        RoundingError(frozenset("ab"), 0.8),
        RoundingError(frozenset("a"), 0.05),
        RoundingError(frozenset("c"), 0.15),
    )
    costs = costing({"a": 10, "b": 10, "c": 10})
    assert cheapest_below(errors, costs, 0.5) == {"a", "b"}
    assert cheapest_below(errors, costs, 0.1) == {"a", "b", "c"}
    assert within(errors, costs, 19.0) == {"c"}
    assert within(errors, costs, 20.0) == {"a", "b"}
    assert within(errors, costs, 30.0) == {"a", "b", "c"}
    assert not within(errors, costs, 5.0)
    assert not within((), costing({}), 5.0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_no_other_choice_avoids_more_for_the_same(seed):
    generator = np.random.default_rng(seed)
    names = "abcdef"
    costs = {name: float(cost) for name, cost in zip(names, generator.integers(1, 20, 6), strict=True)}
    errors = tuple(
        RoundingError(frozenset(generator.choice(list(names), generator.integers(1, 4), replace=False)), float(share))
        for share in generator.exponential(size=8)
    )

    def avoided(chosen):
        return sum(error.share for error in errors if error.layers <= set(chosen))

    subsets = [subset for size in range(7) for subset in itertools.combinations(names, size)]
    budget = float(generator.integers(5, 40))
    found = within(errors, costing(costs), budget)
    assert sum(costs[name] for name in found) <= budget + 1e-6
    best = max(avoided(subset) for subset in subsets if sum(costs[name] for name in subset) <= budget)
    assert avoided(found) >= best * (1 - 2e-3)
    total = avoided(names)
    below = cheapest_below(errors, costing(costs), 0.4)
    assert avoided(below) >= 0.6 * total * (1 - 1e-6)
    least = min(sum(costs[name] for name in subset) for subset in subsets if avoided(subset) >= 0.6 * total)
    assert sum(costs[name] for name in below) <= least * (1 + 2e-3) + 1e-6


@pytest.mark.parametrize("number", [0.0, -1.0, 1.5])
def test_a_share_that_is_none_is_refused(number):
    with pytest.raises(BadOptionValue, match="error"):
        Quant(error=number)


def test_what_is_observed_is_observed_once_for_all_strengths(monkeypatch):
    model, feeds = net()
    opened = []
    samples = open_samples(feeds, Session.of(model, VNNI).inputs)

    def open_session(probe):
        opened.append(probe)
        return Session.of(probe, VNNI)

    context = make_context(model, samples, target=VNNI, open_session=open_session)
    sessions, layers = [], []
    for strength in (1.0, 0.5, 0.4, 0.5):
        after = model.clone()
        infer_shapes(after)
        before = len(opened)
        layers.append(Quant(calibration=Calibration.MSE, equalize=False).milder(strength).run(after, context).layers)
        sessions.append(len(opened) - before)
    told = "ranges, histograms, moments, the model as it is and rounded part by part; then all is known"
    assert sessions == [5, 0, 0, 0], told
    assert layers[1] == layers[3]
    assert len(layers[0]) > len(layers[1])


def test_the_table_says_what_each_layer_costs_saves_and_became():
    model, feeds = net()
    _, change = quantized(model, feeds, error=0.5, equalize=False)
    table = {row.layer: row for row in change.sensitivity}
    assert list(table) == ["A", "B", "C", "D"], "in the order of the graph"
    assert {name: row.became for name, row in table.items()} == {"A": "float", "B": "float", "C": "int8", "D": "int8"}
    assert "together with" in table["A"].why
    assert not table["C"].why
    assert sum(row.share for row in table.values()) == pytest.approx(1)
    assert table["A"].share + table["B"].share > 0.9
    assert (table["C"].bytes_before, table["C"].bytes_after) == (4 * 16 * 32 * 9, 16 * 32 * 9)
    assert {row.measured_on for row in table.values()} == {"outputs"}
    assert len({row.layer for row in change.sensitivity if row.saved_ms is None and not row.saved_reason}) == 0


def test_the_noise_of_a_layer_is_that_of_a_model_in_which_it_alone_is_quantized():
    model, feeds = net()
    # The neighbours of a layer alone keep their weights, so that its channels could not be equalised.
    plain = {"rounding": Rounding.NEAREST, "bias_correction": False, "equalize": False}
    _, change = quantized(model, feeds, **plain)
    for row in change.sensitivity:
        alone, _ = quantized(model, feeds, include=(row.layer,), float_time=0.0, **plain)
        found = -10 * np.log10(error(model, alone, feeds))
        assert row.sqnr_db == pytest.approx(found, abs=2.0), row.layer


def test_what_nothing_depends_on_is_not_measured():
    model, feeds = net()
    _, change = quantized(model, feeds, float_time=0.0, calibration=Calibration.MINMAX, rounding=Rounding.NEAREST)
    assert {row.sqnr_reason for row in change.sensitivity} == {"not measured: nothing that was asked for depends on it"}
    assert {row.became for row in change.sensitivity} == {"int8"}


def test_layers_that_all_stay_in_float_are_in_the_table_too():
    model, feeds = net()
    _, change = quantized(model, feeds, error=1e-9)
    assert not change.modified
    assert [row.became for row in change.sensitivity] == ["float"] * 4
    assert all(row.why for row in change.sensitivity)


def test_layers_whose_activations_have_more_bits_say_so():
    model, _ = net()
    infer_shapes(model)
    plan = make_plan(model, load_table("cpu"))
    key = next(site.key for site in plan.sites)
    wide = dataclasses.replace(plan, wide=frozenset({key}))
    first, second, *_ = plan_table(plan, wide, lambda _: INT8, frozenset(), None, None)
    assert "its activations have more bits" in first.why
    assert not second.why


def test_layers_of_a_plan_that_was_given_up_say_why():
    model, _ = net()
    infer_shapes(model)
    plan = make_plan(model, load_table("cpu"))
    rows = plan_table(plan, QuantPlan((), (), ()), lambda _: INT8, frozenset(), None, None, "it is slower")
    assert {(row.became, row.why) for row in rows} == {("float", "it is slower")}


def test_weights_that_get_more_bits_are_told_with_the_noise_of_fewer():
    model, feeds = net()
    _, change = quantized(model, feeds, weights=WeightType.INT4)
    wide = [row for row in change.sensitivity if row.became == "int8"]
    assert wide
    assert all("for its bytes" in row.why for row in wide)
    narrow = [row for row in change.sensitivity if row.became == "int4"]
    assert narrow
    assert not any(row.why for row in narrow)
    assert all(row.bytes_after * 8 == row.bytes_before for row in narrow)
    assert wide[0].bytes_after * 4 == wide[0].bytes_before


def test_time_is_saved_where_it_was_measured():
    model, _ = net()
    infer_shapes(model)
    plan = make_plan(model, load_table("cpu"))
    key = next(site.key for site in plan.sites)
    costs = PlanCosts({key: PrecisionCost(3.0, 1.0, 0, 0)}, measured=True)
    first, second, *_ = plan_table(plan, plan, lambda _: INT8, frozenset(), None, costs)
    assert first.saved_ms == 2.0
    assert first.saved_reason is None
    assert (second.saved_ms, second.saved_reason) == (None, "not measured")
    estimated = dataclasses.replace(costs, measured=False)
    assert plan_table(plan, plan, lambda _: INT8, frozenset(), None, estimated)[0].saved_ms is None


def test_a_layer_in_float_leaves_its_clamp_in_float_where_everything_else_is_quantized():
    model, feeds = net()
    after, change = quantized(model, feeds, error=0.5, target="qdq", calibration=Calibration.MINMAX)
    assert "float" in {row.became for row in change.sensitivity}
    assert error(model, after, feeds) < 0.1


def test_layers_without_a_name_have_reasons_of_their_own():
    model, feeds = net()
    for node in model.graph:
        node.name = ""
    _, change = quantized(model, feeds, error=0.5, equalize=False)
    in_float = [row for row in change.sensitivity if row.became == "float"]
    left = {note.subject: note.reason for note in change.notes}
    assert len(in_float) > 1
    assert all(row.why == left[row.layer] for row in in_float)
    assert len({row.why for row in in_float}) == len(in_float)
