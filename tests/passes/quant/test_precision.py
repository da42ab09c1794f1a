"""Of several choices of layers in float the best is found by times and errors that tests tell."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from onnxslim.passes.quant.cost import Boundary, PlanCosts, PrecisionCost
from onnxslim.passes.quant.mixed import RoundingError
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.precision import (
    Demands,
    PlanFigures,
    PlanTrial,
    best_of,
    candidates,
    mixed_plan,
)
from onnxslim.passes.quant.table import load_table
from three_layers import net


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


def test_of_errors_that_are_small_enough_the_fastest_counts():
    left, times = [0.2, 0.5, 1.0], [5.2, 5.0, 4.9]
    assert best_of(left, times, 10.0, Demands(float_time=0.1, enough=0.6)) == 1
    assert best_of(left, times, 10.0, Demands(float_time=0.1, enough=1.0)) == 2
    assert best_of(left, times, 10.0, Demands(float_time=0.1, enough=0.1)) == 0
    assert best_of(left, times, 10.0, Demands(error=0.3, enough=1.0)) == 0, "a demand is a demand"
    assert best_of(left, times, 10.0, Demands(latency=0.9, enough=1.0)) == 0, "and so is a budget"


def test_where_everything_in_int8_is_good_enough_no_time_is_spent():
    errors = [RoundingError(frozenset(key), share) for key, share in (("a", 1.0), ("b", 0.5), ("c", 0.2))]
    layers = {key: PrecisionCost(11.0 + extra, 10.0, 4, 1) for key, extra in (("a", 0.0), ("b", -2.0), ("c", 9.0))}
    costs = PlanCosts(layers, measured=True)
    spent = candidates(errors, costs, Demands(float_time=0.05), frozenset())
    assert frozenset("ab") in spent
    assert candidates(errors, costs, Demands(float_time=0.05, enough=1.5), frozenset()) == [frozenset("b"), frozenset()]
    budget = Demands(float_time=0.05, latency=0.9, enough=1.5)
    assert candidates(errors, costs, budget, frozenset()) == candidates(
        errors, costs, dataclasses.replace(budget, enough=0.0), frozenset()
    )


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


def where_a_is_reckoned_slower_in_int8(race):
    """Return the mixed plan of three layers, by the times that `race` tells."""
    model, _ = net()
    plan = make_plan(model, load_table("cpu"))
    reckoned = {"a": (1.0, 1.5), "b": (1.2, 1.0), "y": (5.0, 1.0)}
    layers = {key: PrecisionCost(*times, 4, 1) for key, times in reckoned.items()}
    errors = [RoundingError(frozenset(key), share) for key, share in (("a", 0.1), ("b", 5.0), ("y", 1.0))]
    figures = PlanFigures(plan, errors, PlanCosts(layers, rest_time=20.0, measured=True), {})

    def replan(reasons):
        return make_plan(model, load_table("cpu"), float_nodes=reasons)

    return mixed_plan(figures, Demands(float_time=0.05), frozenset(), PlanTrial(replan, race, unjudged))


def test_layers_that_are_slower_in_float_after_all_are_int8_in_further_choices():
    """A float convolution among others may slow down what lies around it, which no time of a layer tells."""
    races = []

    def race(plans):
        in_int8 = [{site.key for site in own.sites if site.is_contraction} for own in plans]
        races.append(in_int8)
        pace = len(races)  # the second race is twice as slow, and the model in float hit worse than that
        return [
            30.0 * pace**2,
            *(pace * (23.0 + 3 * (len({"a", "y"} - own)) + 0.5 * ("b" not in own)) for own in in_int8),
        ]

    found = where_a_is_reckoned_slower_in_int8(race)
    assert {"y"} in races[0]
    assert {"a", "b", "y"} in races[0]
    assert {"a", "y"} in races[1]
    again = [own for own in races[1] if own in races[0]]
    assert again == [{"a", "b", "y"}], "the fastest: it tells the pace of the second race"
    assert {site.key for site in found.plan.sites if site.is_contraction} == {"a", "y"}
    assert found.notes[0].action == "23.5 ms"


@pytest.mark.parametrize("failing", ["all", "the fastest"])
def test_a_second_race_that_fails_makes_no_choice_fast(failing):
    races = []

    def race(plans):
        in_int8 = [{site.key for site in own.sites if site.is_contraction} for own in plans]
        races.append(in_int8)
        times = [30.0, *(23.0 + 3 * (len({"a", "y"} - own)) + 0.5 * ("b" not in own) for own in in_int8)]
        if len(races) == 1:
            return times
        return [math.inf] * len(times) if failing == "all" else [30.0, math.inf, *times[2:]]

    found = where_a_is_reckoned_slower_in_int8(race)
    assert len(races) == 2
    assert {site.key for site in found.plan.sites if site.is_contraction} == {"a", "b", "y"}
    assert found.notes[0].action == "23 ms"


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
