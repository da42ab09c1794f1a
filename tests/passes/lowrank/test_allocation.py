"""Which split each layer gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.lowrank.allocation import RankRule, RankTarget, budget, choose, hull, why_whole
from onnxslim.passes.lowrank.candidates import SplitCandidate
from onnxslim.passes.lowrank.factors import Factorization
from onnxslim.passes.lowrank.sensitivity import curves


def candidate(parameters: int, error: float, share: float = 0.5) -> SplitCandidate:
    return SplitCandidate(Factorization.MATRIX, (parameters,), parameters, 0.5, error, share)


LAYERS = st.lists(
    st.integers(100, 1000).flatmap(
        lambda whole: st.tuples(
            st.just(whole),
            st.lists(
                st.tuples(st.integers(1, whole - 1), st.floats(0.0, 1.0)).map(lambda pair: candidate(*pair)),
                max_size=8,
            ),
        )
    ),
    min_size=1,
    max_size=6,
)


@given(layers=LAYERS, share=st.floats(0.05, 0.9))
@settings(max_examples=80, deadline=None)
def test_the_budget_is_met_where_it_can_be(layers: list[tuple[int, list[SplitCandidate]]], share: float) -> None:
    parameters, options = [whole for whole, _ in layers], [own for _, own in layers]
    target = round(share * sum(parameters))
    chosen = budget(parameters, options, target)
    gone = sum(whole - each.parameters for whole, each in zip(parameters, chosen, strict=True) if each is not None)
    # Along the hulls no more is to be had than what the smallest split of each layer leaves.
    most = sum(whole - min(each.parameters for each in own) for whole, own in layers if own)
    assert gone >= min(target, most)


def test_the_budget_is_spent_where_it_costs_least() -> None:
    cheap, dear = [candidate(50, 0.01), candidate(20, 0.02)], [candidate(50, 0.2), candidate(20, 0.5)]
    chosen = budget([100, 100], [dear, cheap], 80)
    assert chosen[0] is None
    assert chosen[1] == cheap[1]


def test_the_last_step_is_no_longer_than_it_must_be() -> None:
    own = [candidate(90, 0.3), candidate(60, 0.35), candidate(10, 0.4)]
    assert hull(100, own) == [own[2]]
    assert budget([100], [own], 30) == [own[1]]


def test_what_an_error_costs_decides_where_the_budget_is_spent() -> None:
    own = [candidate(50, 0.1), candidate(20, 0.2)]
    prices = curves({0: [(0.1, 0.4), (0.2, 0.8)], 1: [(0.1, 0.1), (0.2, 1.6)]}, 2)
    assert budget([100, 100], [own, own], 50, prices) == [None, own[0]]
    assert budget([100, 100], [own, own], 80, prices) == [own[0], own[0]]


def test_curves_go_through_what_was_measured() -> None:
    steep, flat, unknown = curves({0: [(0.2, 0.4), (0.1, 0.1)], 1: [(0.1, 0.3)]}, 3)
    assert (steep(0.1), steep(0.2)) == (pytest.approx(0.1), pytest.approx(0.4))
    assert steep(0.05) == pytest.approx(0.05)
    assert flat(0.5) == pytest.approx(1.5)
    assert unknown(0.1) == pytest.approx(0.2)  # as the average does
    assert curves({}, 1)[0](0.3) == pytest.approx(0.3)
    assert curves({0: [(0.0, 0.0)], 1: [(0.1, 0.0), (0.2, 0.1)]}, 2)[0](0.3) == pytest.approx(0.3)


def test_rules_of_single_layers() -> None:
    own = [candidate(80, 0.001, 0.8), candidate(50, 0.01, 0.5), candidate(20, 0.2, 0.2)]
    assert choose([100], [own], RankTarget(RankRule.ENERGY, 0.98)) == [own[1]]
    assert choose([100], [own], RankTarget(RankRule.RANK, 0.25)) == [own[2]]
    assert choose([100], [own], RankTarget(RankRule.BREAK_EVEN)) == [own[0]]
    assert choose([100], [own], RankTarget(RankRule.ENERGY, 0.9999)) == [None]
    assert choose([100], [own[1:]], RankTarget(RankRule.RANK, 0.6)) == [own[1]]
    assert choose([100], [own[1:]], RankTarget(RankRule.RANK, 0.9)) == [None]  # 0.5 loses far more than was asked for
    assert "90.0%" in str(why_whole(own[1:], RankTarget(RankRule.RANK, 0.9), 16))
    assert "multiple of 64" in str(why_whole([], RankTarget(RankRule.RANK, 0.9), 64))
    assert "99.9" in str(why_whole(own, RankTarget(RankRule.ENERGY, 0.9999), 16))


@pytest.mark.parametrize("rule", list(RankRule))
def test_what_cannot_be_split_stays(rule: RankRule) -> None:
    assert choose([100], [[]], RankTarget(rule, 0.5)) == [None]
    assert str(why_whole([], RankTarget(rule, 0.5), 1)) == "no split saves parameters"
