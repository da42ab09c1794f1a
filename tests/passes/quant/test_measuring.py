"""Measured times of layers, told by a clock of the test: what is slower in int8 stays in float, and says so."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from onnxslim.passes.quant import Quant, quantizer
from onnxslim.passes.quant.cost import Boundary, PlanCosts, PrecisionCost
from onnxslim.passes.quant.integers import INT8
from onnxslim.passes.quant.measuring import Stopwatch, conversions, measured_costs, node_owners
from onnxslim.passes.quant.mixed import RoundingError
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.precision import (
    Demands,
    PlanFigures,
    PlanTrial,
    Times,
    best_of,
    candidates,
    mixed_plan,
)
from onnxslim.passes.quant.scales import Activations, Calibration
from onnxslim.passes.quant.table import load_table
from onnxslim.passes.quant.weights import Rounding
from sample_models import from_text
from story import VNNI, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue, RunError
from onnxslim.pipeline.interface import Goal
from onnxslim.runtime.layer_latency import NOTHING
from onnxslim.runtime.session import Session

TEXT = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    t = Tanh (x)  a = Conv (t, u)  h = HardSwish (a)  b = Conv (h, v)  r = Relu (b)  y = Conv (r, w) }"""
IN_FLOAT = {"a": 4.0, "h": 1.0, "b": 3.0, "y": 2.0}
IN_INT8 = {"a": 1.0, "h": 1.0, "b": 4.0, "y": 0.5}


def net():
    generator = np.random.default_rng(0)
    shapes = {"u": (4, 3, 1, 1), "v": (4, 4, 1, 1), "w": (4, 4, 1, 1)}
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = from_text(TEXT, **weights)
    infer_shapes(model)
    return model, {"x": generator.normal(size=(32, 3, 8, 8)).astype(np.float32)}


def is_quantized(model):
    return any(node.op_type == "QuantizeLinear" for node in model.graph)


def computes_in_int8(node):
    sources = [value.producer() for value in node.inputs if value is not None]
    return node.op_type == "Conv" and all(source is not None and reads_integers(source) for source in sources)


def reads_integers(node):
    return node.op_type == "DequantizeLinear"


class ToldTimes:
    """Times of nodes as told; conversions take their time where a float op is on one side, and none between others."""

    def __init__(self, conversion=0.25, rest=0.5):
        self.conversion, self.rest, self.compared = conversion, rest, []

    def _of(self, node):
        maker = node.inputs[0].producer()
        if node.op_type == "QuantizeLinear":
            fused = maker is not None and computes_in_int8(maker)
            return 0.0 if fused else self.conversion
        if reads_integers(node):
            fused = maker is None or all(computes_in_int8(use.node) for use in node.outputs[0].uses())
            return 0.0 if fused and not node.outputs[0].is_graph_output() else self.conversion
        return (IN_INT8 if computes_in_int8(node) else IN_FLOAT).get(node.outputs[0].name, 0.0)

    def of_nodes(self, model, feeds, macs, runs):
        return {node.outputs[0].name: self._of(node) for node in model.graph}, self.rest

    def together(self, models, feeds):
        self.compared.append(len(models))
        return [self.rest + sum(map(self._of, model.graph)) for model in models]


class ToldLayers:
    """Each conversion takes as long as is told."""

    def __init__(self, pair=0.5):
        self.pair = pair

    def milliseconds(self, layers, progress=None):
        return [0.01 if layer.steps[0].op[1] == "Identity" else self.pair + 0.01 for layer in layers]


def run(model, feeds, monkeypatch, told, context=None, **options):
    monkeypatch.setattr(quantizer, "ModelTimes", lambda target: told)
    monkeypatch.setattr(quantizer, "LayerTimes", lambda target: ToldLayers(2 * told.conversion))
    given = {"calibration": Calibration.MINMAX, "rounding": Rounding.NEAREST, "times": Times.MEASURED, **options}
    after = model.clone()
    infer_shapes(after)
    change = Quant(**given).run(after, make_context(model, feeds, target=VNNI, **(context or {})))
    return after, change


def in_float(model):
    return {node.outputs[0].name for node in model.graph if node.op_type == "Conv" and not computes_in_int8(node)}


def test_nodes_belong_to_the_layer_before_them():
    model, _ = net()
    plan = make_plan(model, load_table("cpu"))
    assert node_owners(model, plan) == {"a": "a", "h": "a", "b": "b", "r": "b", "y": "y"}


def test_layers_cost_what_their_nodes_take_in_their_places():
    model, feeds = net()
    plan = make_plan(model, load_table("cpu"))
    after = model.clone()
    Quant(calibration=Calibration.MINMAX, float_time=0.0).run(after, make_context(model, feeds, target=VNNI))
    watch = Stopwatch(ToldTimes(), ToldLayers(), {"x": feeds["x"][:1]})
    costs = measured_costs(model, after, plan, {"a": 768, "b": 1024, "y": 1024}, lambda site: INT8, watch)
    assert costs.measured
    everything = frozenset("aby")
    assert costs.time(everything) == pytest.approx(10.5), "as the whole model takes"
    assert {key: cost.float_time for key, cost in costs.layers.items()} == pytest.approx({"a": 5, "b": 3, "y": 2})
    ratio = costs.layers["b"].int8_time / costs.layers["a"].int8_time
    assert ratio == pytest.approx(4 / 2), "HardSwish stays float, and costs the layer as much as before"
    assert costs.rest_time == pytest.approx(0.5)
    assert costs.layers["a"].float_bytes == 48
    assert len(costs.boundaries) == 5


def test_a_layer_that_is_slower_in_int8_is_brought_back(monkeypatch):
    model, feeds = net()
    after, change = run(model, feeds, monkeypatch, ToldTimes(conversion=0.05), float_time=0.0)
    assert in_float(after) == {"b"}
    (slower,) = (note for note in change.notes if note.code == "slower-layer")
    assert slower.reason == "in int8 it takes 4 ms with its conversions, and in float 3 ms"
    (told,) = [note for note in change.notes if "measured in turns" in note.reason]
    assert told.reason.startswith("measured in turns: 10.5 ms in float, ")
    assert re.search(r"with everything in int8 that can be, of whose error [0-9]+% is left$", told.reason)


def test_a_model_that_is_not_faster_is_left_alone(monkeypatch):
    model, feeds = net()
    after, change = run(model, feeds, monkeypatch, ToldTimes(conversion=3.0))
    assert not change.modified
    assert not is_quantized(after)
    assert change.notes[0].code == "not-faster"
    assert "in float 10.5 ms" in change.notes[0].reason


def test_a_budget_of_time_is_kept_with_the_least_error(monkeypatch):
    model, feeds = net()
    floats = []
    for latency in (0.97, 0.65, 0.3):
        after, change = run(model, feeds, monkeypatch, ToldTimes(conversion=0.05), latency=latency)
        floats.append(len(in_float(after)))
        missed = [note for note in change.notes if "latency=0.3 is not to be had" in note.reason]
        assert bool(missed) == (latency == 0.3)
    assert floats[0] > max(floats[1:])


def test_a_budget_of_bytes_is_kept_with_the_least_error(monkeypatch):
    model, feeds = net()
    after, _ = run(model, feeds, monkeypatch, ToldTimes(), size=0.6)
    assert len(in_float(after)) == 1
    weights = [value.const_value for value in after.graph.initializers.values() if value.const_value.size >= 12]
    assert sum(weight.nbytes for weight in weights) <= 0.6 * 176
    after, change = run(model, feeds, monkeypatch, ToldTimes(), size=0.1)
    assert not in_float(after)
    assert [note for note in change.notes if "size=0.1 is not to be had" in note.reason]


@pytest.mark.parametrize(
    ("options", "context", "measured"),
    [
        ({}, {"timed": True}, True),
        ({"size": 0.5}, {"timed": True}, False),
        ({"size": 0.5, "latency": 0.5}, {"timed": True}, True),
        ({}, {"timed": True, "goal": Goal.SIZE}, False),
        ({}, {}, False),
        ({"target": "qnn"}, {"timed": True}, False),
        ({"times": Times.ESTIMATED}, {"timed": True}, False),
        ({"times": Times.MEASURED}, {}, True),
    ],
)
def test_times_are_measured_where_they_decide(options, context, measured, monkeypatch):
    model, feeds = net()
    told = ToldTimes()
    run(model, feeds, monkeypatch, told, context, **{"times": Times.AUTO, **options})
    assert bool(told.compared) is measured


def test_what_cannot_be_measured_is_estimated(monkeypatch):
    class Broken(ToldTimes):
        def of_nodes(self, model, feeds, macs, runs):
            raise RunError("it does not run")

    model, feeds = net()
    after, change = run(model, feeds, monkeypatch, Broken(), float_time=0.0)
    assert change.modified
    assert not in_float(after)

    class Late(ToldTimes):
        def together(self, models, feeds):
            if len(self.compared):
                raise RunError("it does not run")
            return super().together(models, feeds)

    after, change = run(model, feeds, monkeypatch, Late(conversion=0.05), float_time=0.0)
    assert in_float(after) == {"b"}, "as it is reckoned"
    assert not [note for note in change.notes if "measured in turns" in note.reason]


def test_options_that_make_no_sense_are_refused():
    for options in ({"latency": 0.0}, {"latency": 1.0}, {"size": 1.5}):
        with pytest.raises(BadOptionValue, match=r"latency|size"):
            Quant(**options)
    with pytest.raises(BadOptionValue, match="latency has no meaning with activations=dynamic"):
        Quant(latency=0.5, activations=Activations.DYNAMIC)
    model, feeds = net()
    with pytest.raises(BadOptionValue, match="cpu does not tell the times"):
        Quant(times=Times.MEASURED, target="qnn").run(model, make_context(model, feeds, target=VNNI))


def test_a_conversion_is_there_and_back():
    for shape, relaid, count in (((1, 4, 8, 8), True, 3), ((1, 4, 8, 8), False, 2), ((4, 8), False, 2)):
        layer = conversions(shape, relaid)
        assert len(layer.steps) == count
        model, feeds = layer.model()
        (found,) = Session.of(model).run(feeds).values()
        assert math.prod(found.shape) == math.prod(shape)


def test_what_estimates_would_choose_is_measured_too():
    """Profiles of nodes and single conversions tell only roughly what a choice takes."""
    errors = [RoundingError(frozenset(key), share) for key, share in (("a", 1.0), ("b", 0.5), ("c", 0.1))]
    layers = {key: PrecisionCost(10.0, 1.0, 4, 1) for key in "abc"}
    cheap = {"a": 10.0, "b": 1.02, "c": 10.0}
    estimated = {key: PrecisionCost(cheap[key], 1.0, 4, 1) for key in "abc"}
    measured, demands = PlanCosts(layers, measured=True), Demands(float_time=0.05)
    assert candidates(errors, measured, demands, frozenset()) == [frozenset()]
    both = candidates(errors, measured, demands, frozenset(), PlanCosts(estimated))
    assert both == [frozenset("b"), frozenset()]
    within = dataclasses.replace(demands, latency=0.5)
    assert frozenset("b") not in candidates(errors, measured, within, frozenset(), PlanCosts(estimated))


def test_what_takes_more_is_measured_for_what_it_may_bring():
    errors = [RoundingError(frozenset(key), share) for key, share in (("a", 1.0), ("b", 0.5), ("c", 0.2))]
    layers = {key: PrecisionCost(11.0 + extra, 10.0, 4, 1) for key, extra in (("a", 0.0), ("b", 1.0), ("c", 9.0))}
    sets = candidates(errors, PlanCosts(layers, measured=True), Demands(float_time=0.05), frozenset())
    assert frozenset("a") in sets, "3 % more"
    assert frozenset("ab") in sets, "10 % more"
    assert not [layers for layers in sets if "c" in layers], "33 % more"
    budgeted = candidates(errors, PlanCosts(layers, measured=True), Demands(latency=0.9), frozenset())
    assert len(budgeted) < len(sets)


def test_conversions_between_layers_change_the_layout_of_images():
    """Beside an op that is float whatever is chosen, they do not."""
    asked = []

    class Told(ToldTimes):
        def milliseconds(self, layers):
            asked.extend(len(layer.steps) for layer in layers[:-1])
            return [float(len(layer.steps)) for layer in layers]

    model, feeds = net()
    plan = make_plan(model, load_table("cpu"))
    told = Told()
    costs = measured_costs(model, model, plan, {}, lambda _: INT8, Stopwatch(told, told, feeds))
    prices = {(edge.maker, edge.read_in_float): (edge.quantize, edge.dequantize) for edge in costs.boundaries}
    idle = len(NOTHING.steps)
    plain, relaid = (2 - idle) / 2, (3 - idle) / 2
    factor = prices[None, False][0] / plain
    assert prices[None, False] == pytest.approx((plain * factor, relaid * factor)), "Tanh and HardSwish are float"
    assert prices["b", False] == pytest.approx((relaid * factor, relaid * factor)), "two convolutions"
    assert prices["a", True] == pytest.approx((relaid * factor, plain * factor)), "HardSwish reads it"
    assert set(asked) == {2, 3}


def test_of_large_models_few_are_compared():
    errors = [RoundingError(frozenset(key), 1.0) for key in "ab"]
    for size, count in ((1, 3), (400_000_000, 2)):
        layers = {"a": PrecisionCost(1.0, 1.1, 4 * size, size), "b": PrecisionCost(1.1, 1.0, 4 * size, size)}
        edges = (Boundary("a", frozenset("b"), False, 0.04, 0.04),)
        sets = candidates(errors, PlanCosts(layers, edges, measured=True), Demands(float_time=0.05), frozenset())
        assert len(sets) == count
        assert sets[0] == {"a", "b"}
        assert sets[-1] == set()


def test_the_best_is_within_the_time_with_the_least_error():
    left, times = [0.2, 0.5, 1.0], [5.2, 5.0, 4.9]
    assert best_of(left, times, 10.0, Demands(float_time=0.0)) == 2
    assert best_of(left, times, 10.0, Demands(float_time=0.03)) == 1
    assert best_of(left, times, 10.0, Demands(float_time=0.1)) == 0
    assert best_of(left, times, 10.0, Demands(latency=0.5)) == 1
    assert best_of(left, times, 10.0, Demands(latency=0.1)) == 2, "as fast as can be"
    assert best_of(left, times, 10.0, Demands(error=0.3)) == 0
    assert best_of(left, times, 10.0, Demands(error=0.1)) == 0
    assert best_of(left, times, 5.1, Demands(error=0.3)) is None, "but never slower than in float"
    assert best_of(left, times, 4.0, Demands()) is None
    assert best_of(left, [math.inf] * 3, 4.0, Demands()) is None


def unjudged(plans):
    return [math.nan] * len(plans)


def in_turns(plan):
    """Return the milliseconds of a plan of three layers, each of which takes so much longer in float."""
    return 23.0 + 1.1 * (3 - sum(site.is_contraction for site in plan.sites))


def test_a_layer_that_costs_the_outputs_most_stays_in_float_where_there_is_time():
    model, _ = net()
    plan = make_plan(model, load_table("cpu"))
    costs = PlanCosts({key: PrecisionCost(2.0, 1.0, 4, 1) for key in "aby"}, rest_time=20.0, measured=True)
    errors = [RoundingError(frozenset(key), share) for key, share in (("a", 1.5), ("b", 5.0), ("y", 2.0))]
    asked = []

    def replan(reasons):
        asked.append({node.outputs[0].name: reason.code.word for node, reason in reasons.items()})
        return make_plan(model, load_table("cpu"), float_nodes=reasons)

    def race(plans):
        return [27.0, *(in_turns(own) for own in plans)]

    found = mixed_plan(
        PlanFigures(plan, errors, costs, {}), Demands(float_time=0.05), frozenset(), PlanTrial(replan, race, unjudged)
    )
    assert {site.key for site in found.plan.sites if site.is_contraction} == {"a", "y"}
    assert {reasons["b"] for reasons in asked} == {"costly"}
    assert found.against is None


def test_layers_that_are_slower_in_float_after_all_are_int8_in_further_choices():
    """A float convolution among others may slow down what lies around it, which no time of a layer tells."""
    model, _ = net()
    plan = make_plan(model, load_table("cpu"))
    reckoned = {"a": (1.0, 1.5), "b": (1.2, 1.0), "y": (5.0, 1.0)}
    costs = PlanCosts({key: PrecisionCost(*times, 4, 1) for key, times in reckoned.items()}, rest_time=20.0)
    costs = dataclasses.replace(costs, measured=True)
    errors = [RoundingError(frozenset(key), share) for key, share in (("a", 0.1), ("b", 5.0), ("y", 1.0))]
    races = []

    def race(plans):
        in_int8 = [{site.key for site in own.sites if site.is_contraction} for own in plans]
        races.append(in_int8)
        pace = len(races)  # the second race is twice as slow
        return [30.0 * pace, *(pace * (23.0 + 3 * (len({"a", "y"} - own)) + 0.5 * ("b" not in own)) for own in in_int8)]

    def replan(reasons):
        return make_plan(model, load_table("cpu"), float_nodes=reasons)

    found = mixed_plan(
        PlanFigures(plan, errors, costs, {}), Demands(float_time=0.05), frozenset(), PlanTrial(replan, race, unjudged)
    )
    assert {"y"} in races[0]
    assert {"a", "b", "y"} in races[0]
    assert {"a", "y"} in races[1]
    again = [own for own in races[1] if own in races[0]]
    assert again == [{"a", "b", "y"}], "the fastest: it tells the pace of the second race"
    assert {site.key for site in found.plan.sites if site.is_contraction} == {"a", "y"}
    assert found.notes[0].action == "23.5 ms"


@pytest.mark.parametrize(
    ("left", "times", "best"),
    [
        ([1.0, 0.5], [100.0, 104.0], 1),
        ([1.0, 0.5], [100.0, 108.0], 0),
        ([1.0, 0.1], [100.0, 108.0], 1),
        ([1.0, 0.1], [100.0, 112.0], 0),
        ([1.0, 0.01], [100.0, 115.0], 1),
        ([1.0, 0.001], [100.0, 119.0], 1),
        ([1.0, 0.0], [100.0, 121.0], 0),
        ([1.0, 0.5, 0.1], [100.0, 104.0, 109.0], 2),
        ([0.1, 0.05], [100.0, 108.0], 0),
        ([0.0, 0.0], [100.0, 101.0], 0),
    ],
)
def test_each_further_share_of_the_time_must_bring_an_eighth_of_the_error(left, times, best):
    assert best_of(left, times, 200.0, Demands(float_time=0.05)) == best
    assert best_of(left, times, 200.0, Demands(float_time=0.05, latency=1.0)) == int(np.argmin(left))


@pytest.mark.parametrize(("error_of_b", "kept"), [(0.2, {"a", "y"}), (1.0, {"a", "b", "y"}), (math.nan, {"a", "y"})])
def test_errors_that_are_measured_count_more_than_those_that_are_reckoned(error_of_b, kept):
    model, _ = net()
    plan = make_plan(model, load_table("cpu"))
    costs = PlanCosts({key: PrecisionCost(2.0, 1.0, 4, 1) for key in "aby"}, rest_time=20.0, measured=True)
    errors = [RoundingError(frozenset(key), share) for key, share in (("a", 1.5), ("b", 5.0), ("y", 2.0))]

    def error_of(own):
        return 0.01 if "b" in {site.key for site in own.sites} else 0.01 * error_of_b

    trial = PlanTrial(
        lambda reasons: make_plan(model, load_table("cpu"), float_nodes=reasons),
        lambda plans: [27.0, *map(in_turns, plans)],
        lambda plans: list(map(error_of, plans)),
    )
    found = mixed_plan(PlanFigures(plan, errors, costs, {}), Demands(float_time=0.05), frozenset(), trial)
    assert {site.key for site in found.plan.sites if site.is_contraction} == kept


@pytest.mark.parametrize("demands", [Demands(latency=0.6), Demands(size=0.6)])
def test_a_budget_that_takes_time_is_no_reason_for_further_choices(demands):
    model, _ = net()
    plan = make_plan(model, load_table("cpu"))
    costs = PlanCosts({key: PrecisionCost(4.0, 1.0, 40, 10) for key in "aby"}, measured=True)
    errors = [RoundingError(frozenset(key), share) for key, share in (("a", 1.0), ("b", 5.0), ("y", 2.0))]
    races = []

    def race(plans):
        races.append(plans)
        return [24.0, *(24.0 - 6 * sum(site.is_contraction for site in own.sites) for own in plans)]

    def replan(reasons):
        return make_plan(model, load_table("cpu"), float_nodes=reasons)

    mixed_plan(PlanFigures(plan, errors, costs, {}), demands, frozenset(), PlanTrial(replan, race, unjudged))
    assert len(races) == 1


IMAGES = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u)  r = Relu (a)  b = Conv (r, v)  s = Relu (b)  y = Conv (s, w) }"""


@pytest.mark.parametrize(("first", "exact"), [(1.0, True), (4.5, False)])
def test_images_are_held_exactly_where_the_layer_that_reads_them_is_not_much_slower_for_it(first, exact, monkeypatch):
    generator = np.random.default_rng(0)
    shapes = {"u": (4, 3, 3, 3), "v": (4, 4, 1, 1), "w": (4, 4, 1, 1)}
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = from_text(IMAGES, **weights)
    pixels = generator.integers(0, 256, (32, 3, 8, 8))
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 255
    monkeypatch.setitem(IN_INT8, "a", first)
    monkeypatch.setitem(IN_FLOAT, "a", 2.0)
    monkeypatch.setitem(IN_INT8, "b", 1.0)
    times = ToldTimes(conversion=0.05)
    after, change = run(model, {"x": (pixels / 255).astype(np.float32)}, monkeypatch, times, float_time=0.0)
    assert bool([note for note in change.notes if note.action == "256 levels"]) is exact
    dear = [note.reason for note in change.notes if note.code == "exact-too-dear"]
    assert len(dear) == (0 if exact else 1)
    assert in_float(after) == (set() if exact else {"a"})
