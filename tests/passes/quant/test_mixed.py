"""Layers in float amid layers in int8: what conversions cost, and that no choice within the limits is better."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.quant.cost import Boundary, PlanCosts, PrecisionCost, boundaries, estimated_costs, layer_costs
from onnxslim.passes.quant.integers import INT8
from onnxslim.passes.quant.mixed import CostLimits, RoundingError, best_within, fastest
from onnxslim.passes.quant.plan import layers_of, make_plan
from onnxslim.passes.quant.precision import Demands, choose
from onnxslim.passes.quant.table import load_table
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes

FASTER, SLOWER = PrecisionCost(4.0, 1.0, 400, 100), PrecisionCost(1.0, 2.0, 40, 10)


def between(maker, *readers, in_float=False, takes=1.0):
    return Boundary(maker, frozenset(readers), in_float, takes, takes)


def test_conversions_are_paid_where_float_meets_int8():
    costs = PlanCosts(
        {"a": FASTER, "b": SLOWER, "c": FASTER},
        (between(None, "a"), between("a", "b", "c"), between("b", "c"), between("c", in_float=True)),
        rest_time=10.0,
        rest_bytes=7,
    )
    assert costs.time(frozenset()) == 10 + 4 + 1 + 1, "the input is made int8, and the output float"
    assert costs.time(frozenset("b")) == 10 + 3 + 4, "as are the operand of b, and what it makes"
    assert costs.time(frozenset("abc")) == 10 + 9
    assert costs.time(frozenset("a")) == 10 + 7 + 1 + 1
    assert costs.size(frozenset()) == 7 + 210
    assert costs.size(frozenset("b")) == 7 + 240


def test_a_layer_that_is_slower_in_int8_stays_there_where_conversions_cost_more():
    def net(takes):
        edges = (between("a", "b", takes=takes), between("b", "c", takes=takes))
        return PlanCosts({"a": FASTER, "b": SLOWER, "c": FASTER}, edges)

    assert fastest(net(0.4)) == {"b"}
    assert fastest(net(0.6)) == set()
    assert fastest(net(10.0)) == set()
    alone = PlanCosts({"a": SLOWER}, (between(None, "a"), between("a", in_float=True)))
    assert fastest(alone) == {"a"}
    assert fastest(alone, CostLimits(int8=frozenset("a"))) == set()
    assert fastest(alone, CostLimits(size=20)) == set()
    assert fastest(alone, CostLimits(size=5)) is None


def test_nothing_is_chosen_where_no_choice_is_within_the_limits():
    costs = PlanCosts({"a": FASTER}, rest_time=1.0)
    errors = (RoundingError(frozenset("a"), 1.0),)
    assert best_within(errors, costs, CostLimits(time=1.5)) is None
    assert best_within(errors, costs, CostLimits(time=2.5)) == set()
    assert best_within(errors, costs, CostLimits(time=5.5)) == {"a"}


NAMES = "abcde"


@st.composite
def nets(draw):
    number = st.integers(0, 20).map(float)
    layers = {
        name: PrecisionCost(draw(number), draw(number), 4 * (size := draw(st.integers(1, 9))), size) for name in NAMES
    }
    ends = st.tuples(st.sampled_from([None, *NAMES]), st.sets(st.sampled_from(NAMES)), st.booleans(), number, number)
    edges = tuple(
        Boundary(maker, frozenset(readers) - {maker}, in_float, *prices)
        for maker, readers, in_float, *prices in draw(st.lists(ends, max_size=6))
    )
    sets_of_layers = st.sets(st.sampled_from(NAMES), min_size=1, max_size=3).map(frozenset)
    errors = draw(st.lists(st.builds(RoundingError, sets_of_layers, number), max_size=6))
    return errors, PlanCosts(layers, edges, draw(number), 3)


@given(nets(), st.floats(0.2, 1.0), st.floats(0.3, 1.0))
@settings(max_examples=60, deadline=None)
def test_no_choice_within_the_limits_is_better(net, of_time, of_size):
    errors, costs = net

    def avoided(chosen):
        return sum(error.share for error in errors if error.layers <= chosen)

    every = [frozenset(some) for count in range(6) for some in itertools.combinations(NAMES, count)]
    found = fastest(costs)
    assert costs.time(found) <= min(map(costs.time, every)) * (1 + 2e-3) + 1e-6
    limits = CostLimits(of_time * max(map(costs.time, every)), of_size * costs.size(every[-1]))
    within = [some for some in every if costs.time(some) <= limits.time and costs.size(some) <= limits.size]
    best = best_within(errors, costs, limits)
    if not within:
        assert best is None
        return
    assert costs.time(best) <= limits.time * (1 + 1e-6) + 1e-6
    assert costs.size(best) <= limits.size * (1 + 1e-6)
    total = avoided(frozenset(NAMES))
    assert avoided(best) >= max(map(avoided, within)) - 2e-2 * total - 1e-9


def eight(site):
    return INT8


@pytest.fixture
def chain():
    model = from_text(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] r) {
        a = Conv (x, u)  h = Elu (a)  b = Conv (h, v)  r = Relu (b)  y = Conv (r, v) }""",
        u=np.ones((4, 3, 1, 1), np.float32),
        v=np.ones((4, 4, 1, 1), np.float32),
    )
    infer_shapes(model)
    return model, make_plan(model, load_table("cpu"))


def test_boundaries_of_a_plan(chain):
    _, plan = chain
    found = {
        (boundary.maker, boundary.readers, boundary.read_in_float)
        for boundary in boundaries(plan, layers_of(plan), lambda value, between: 1.0)
    }
    assert found == {
        (None, frozenset("a"), False),
        ("a", frozenset(), True),
        (None, frozenset("b"), False),
        ("b", frozenset("y"), True),
        ("y", frozenset(), True),
    }


def test_layers_share_the_bytes_of_a_weight(chain):
    model, plan = chain
    costs, rest = layer_costs(model, layers_of(plan), eight, lambda key, sites: (2.0, 1.0))
    assert {key: (cost.float_bytes, cost.int8_bytes) for key, cost in costs.items()} == {
        "a": (48, 12), "b": (64, 16), "y": (0, 0),
    }  # fmt: skip
    assert rest == 0


def test_estimates_grow_with_products_and_elements(chain):
    model, plan = chain
    macs = {"a": 768, "b": 1024, "y": 1024}
    costs = estimated_costs(model, plan, macs, {"x": np.zeros((1, 3, 8, 8), np.float32)}, eight, saturating=False)
    assert costs.layers["a"].float_time == 768 + 16 * (192 + 256)
    assert costs.layers["a"].int8_time == pytest.approx(768 / 3.5 + 4 * (192 + 256))
    assert costs.boundaries == (Boundary("b", frozenset("y"), False, 20 * 256, 20 * 256),)
    assert not costs.measured


def test_budgets_choose_what_loses_least():
    costs = PlanCosts(dict.fromkeys("abc", FASTER), measured=True)
    errors = [RoundingError(frozenset(name), share) for name, share in (("a", 5.0), ("b", 3.0), ("c", 1.0))]
    free = frozenset[str]()
    assert choose(errors, costs, Demands(float_time=0.5), free) == set()
    assert choose(errors, costs, Demands(latency=0.5), free) == {"a"}
    assert choose(errors, costs, Demands(latency=0.5), frozenset("a")) == {"b"}
    assert choose(errors, costs, Demands(size=0.75), free) == {"a", "b"}
    assert choose(errors, costs, Demands(latency=0.5, size=0.75), free) == {"a"}
    assert choose(errors, costs, Demands(latency=0.1), free) == set(), "as fast as it can be"
    assert choose(errors, costs, Demands(size=0.1), free) == set()
    assert choose(errors, costs, Demands(error=0.2, latency=0.5), free) == {"a", "b"}, "the error is a promise"


def test_only_measured_times_bring_layers_back_to_float():
    layers = {"a": SLOWER, "b": FASTER}
    errors = [RoundingError(frozenset("b"), 1.0)]
    assert choose(errors, PlanCosts(layers, measured=True), Demands(), frozenset()) == {"a"}
    assert choose(errors, PlanCosts(layers), Demands(), frozenset()) == set()
