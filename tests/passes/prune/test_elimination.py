"""Elimination of channels: each cost and each order beside least squares by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from channel_models import built, weight
from onnxslim.passes.prune.elimination import ChannelReader, eliminate
from onnxslim.passes.prune.sensitivity import as_importance, probes, scaled

from onnxslim.analysis.contraction import contractions
from onnxslim.data import open_samples
from onnxslim.observe.gram import FEW, RIDGE, WIDE, Gram, Thin, grams
from onnxslim.runtime.session import Session


def reader(channels: int, taps: int, outputs: int, seed: int) -> ChannelReader:
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(200, channels * taps)) @ generator.normal(size=(channels * taps,) * 2)
    columns = [np.flatnonzero(np.arange(channels * taps) % channels == at) for at in range(channels)]
    return ChannelReader(rows.T @ rows / 200, generator.normal(size=(channels * taps, outputs)), columns, 2.0)


def left_over(each: ChannelReader, gone: set[int]) -> float:
    """Return the error of the best weights that read nothing of the channels that have gone."""
    columns = np.concatenate([each.columns[at] for at in gone]) if gone else np.zeros(0, np.int64)
    kept = np.setdiff1d(np.arange(len(each.weight)), columns)
    missing = each.weight.copy()
    missing[kept] = 0
    inner = each.moment[np.ix_(kept, kept)]
    missing[kept] = -np.linalg.solve(inner, each.moment[np.ix_(kept, columns)] @ each.weight[columns])
    return float(np.einsum("co,cd,do->", missing, each.moment, missing)) / each.energy


@pytest.mark.parametrize(("channels", "taps"), [(5, 1), (4, 3)])
def test_what_is_lost_is_the_error_of_least_squares(channels: int, taps: int) -> None:
    readers = [reader(channels, taps, 3, seed) for seed in (0, 1)]
    ranking = eliminate(readers, channels)
    assert sorted(ranking.order) == list(range(channels))
    for count in range(channels):
        gone = {int(at) for at in ranking.order[:count]}
        assert ranking.lost[count] == pytest.approx(sum(left_over(each, gone) for each in readers), rel=1e-6, abs=1e-9)
    # The first to go is the best of all.
    first = {at: sum(left_over(each, {at}) for each in readers) for at in range(channels)}
    assert ranking.order[0] == min(first, key=first.__getitem__)


def test_a_channel_that_is_the_sum_of_others_costs_nothing() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(300, 3))
    rows = np.concatenate([rows, rows[:, :1] + rows[:, 1:2]], axis=1)
    one = ChannelReader(
        rows.T @ rows / 300 + 1e-9 * np.eye(4), generator.normal(size=(4, 2)), [np.array([at]) for at in range(4)], 1.0
    )
    ranking = eliminate([one], 4)
    assert ranking.order[0] in (0, 1, 3)
    assert ranking.lost[1] < 1e-6 < ranking.lost[2]


def test_second_moments_are_those_of_the_samples() -> None:
    model = built(
        "g (float[N,4,6,6] x) => (float y) { a = Relu (x) y = Conv <pads=[1,1,1,1], group=2> (a, w, b) }",
        w=weight(6, 2, 3, 3), b=weight(6),
    )  # fmt: skip
    images = np.random.default_rng(0).normal(size=(40, 4, 6, 6)).astype(np.float32)
    samples = open_samples({"x": images}, Session.of(model).inputs)
    (each,) = contractions(model.graph)
    (gram,) = grams(model, [each], samples, np.random.default_rng(0), Session.of)
    made = Session.of(model).run({"x": images})["y"].transpose(0, 2, 3, 1).reshape(-1, 6)
    # The energy of the outputs is their variance, and a ridge on top.
    np.testing.assert_allclose(gram.energy, made.var(0).sum(), rtol=2 * RIDGE)
    gone = gram.channels[None] == np.array([[0], [1]])
    fitted = gram.without(gone)
    assert not fitted[gone].any()
    for group in range(2):
        kept = ~gone[group]
        inner, across = gram.moment[group][np.ix_(kept, kept)], gram.moment[group][kept]
        np.testing.assert_allclose(inner @ fitted[group][kept], across @ gram.weight[group], atol=1e-8)


def test_curves_become_importances_that_sort_as_they_were_ranked() -> None:
    ranking = eliminate([reader(8, 1, 3, 0)], 8)
    measured = scaled(ranking, {2: 0.5, 6: 3.0})
    assert measured.lost[2] == pytest.approx(0.5)
    assert measured.lost[6] == pytest.approx(3.0)
    assert (np.diff(measured.lost) >= 0).all()
    for steps in ([2, 4, 6], [1, 5], list(range(1, 9)), []):
        importance = as_importance(measured, steps)
        assert list(np.argsort(importance, kind="stable")) == list(ranking.order)
        # No more than the curve, and equal where it is convex.
        for step in steps:
            assert importance[ranking.order[:step]].sum() <= measured.lost[step] + 1e-6
    assert scaled(ranking, {}) is ranking


def test_probes_are_widths_that_are_allowed() -> None:
    assert probes([], 16) == []
    assert probes([8], 16) == [8]
    assert probes([8, 16, 24, 32, 40, 48], 64) == [16, 32, 48]
    for steps in itertools.combinations(range(1, 12), 3):
        assert set(probes(steps, 12)) <= set(steps)


def test_few_rows_say_the_same_as_the_moments_they_make() -> None:
    generator, ridge = np.random.default_rng(0), 0.1
    rows = (generator.normal(size=(30, 48)) @ generator.normal(size=(48, 48)) / 10).astype(np.float32)
    moment = rows.T.astype(np.float64) @ rows + ridge * np.eye(48)
    weight = generator.normal(size=(48, 5))
    channels = np.arange(48) % 12
    thin, whole = (Gram([each], weight[None], np.zeros((1, 48)), channels) for each in (Thin(rows, ridge), moment))
    assert thin.energy == pytest.approx(whole.energy, rel=1e-4)
    gone = channels[None] < 5
    np.testing.assert_allclose(thin.without(gone), whole.without(gone), atol=1e-3)
    columns = [np.flatnonzero(channels == at) for at in range(12)]
    one, other = (
        eliminate([ChannelReader(each.moment[0], weight, columns, each.energy)], 12) for each in (thin, whole)
    )
    np.testing.assert_array_equal(one.order, other.order)
    np.testing.assert_allclose(one.lost, other.lost, rtol=1e-3, atol=1e-6)


def test_a_wide_reader_is_known_by_few_rows() -> None:
    channels = WIDE // 9 + 1
    model = built(
        f"g (float[N,{channels},3,3] x) => (float y) {{ y = Conv <pads=[1,1,1,1]> (x, w) }}",
        w=weight(2, channels, 3, 3),
    )
    images = np.random.default_rng(0).normal(size=(64, channels, 3, 3)).astype(np.float32)
    (each,) = contractions(model.graph)
    samples = open_samples({"x": images}, Session.of(model).inputs)
    (gram,) = grams(model, [each], samples, np.random.default_rng(0), Session.of)
    assert isinstance(gram.moment[0], Thin)
    assert len(gram.moment[0].rows) == FEW
    made = Session.of(model).run({"x": images})["y"].transpose(0, 2, 3, 1).reshape(-1, 2)
    np.testing.assert_allclose(gram.energy, made.var(0).sum(), rtol=0.3)
