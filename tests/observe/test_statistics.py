"""Statistics inside a running model are those of all samples, and what leaves the model is small."""

from __future__ import annotations

import numpy as np
import pytest
from counted_samples import counted_samples
from sample_models import from_text

from onnxslim.data import Batch, open_samples
from onnxslim.errors import ValuesNotFinite
from onnxslim.observe import batches
from onnxslim.observe.statistics import (
    BINS,
    EXPONENT,
    Grid,
    Observer,
    Power,
    Query,
    Range,
    Statistic,
    channel_moments,
    observe,
    range_queries,
    ranges,
)
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)


def model(opset: int = 17):
    return from_text(
        f'<ir_version: 9, opset_import: ["" : {opset}]> g (float[N,M,3] x) => (float[N,M,3] y) {{ y = Relu (x) }}'
    )


def samples_of(x):
    return open_samples({"x": x}, Session.of(model()).inputs)


def observed(x, queries, opset: int = 17):
    return observe(model(opset), queries, samples_of(x), Session.of)


def test_ranges_are_those_of_all_samples() -> None:
    x = GENERATOR.normal(size=(70, 4, 3)).astype(np.float32)
    found = ranges(observed(x, range_queries(["x", "y"])), ["x", "y"])
    assert found == {"x": Range(float(x.min()), float(x.max())), "y": Range(0.0, float(x.max()))}


def test_values_that_are_looked_at_are_alive_together(monkeypatch: pytest.MonkeyPatch) -> None:
    x = GENERATOR.normal(size=(8, 4, 3)).astype(np.float32)
    monkeypatch.setattr(batches, "KEPT_BYTES", 4 * x[0].nbytes)
    for names, expected in ((["y"], [4, 8]), (["x", "y"], [2, 4, 6, 8])):
        told: list[tuple[int, int]] = []
        observe(model(), range_queries(names), samples_of(x), Session.of, lambda *both, seen=told: seen.append(both))
        assert [done for done, _ in told] == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    x = np.array([[[1, 2, 3]], [[1, bad, 3]]], np.float32)
    assert not ranges(observed(x, range_queries(["x"])), ["x"])["x"].finite
    with pytest.raises(ValuesNotFinite, match="the value x "):
        channel_moments(model(), [("x", 2)], samples_of(x), Session.of)


def test_powers_are_those_of_one_side() -> None:
    x = GENERATOR.normal(size=(9, 40, 3)).astype(np.float32)
    x[:, :, 2] = np.abs(x[:, :, 2])
    queries = [Query("x", Power(end), 2) for end in (2.0, -3.0)]
    above, below = observed(x, queries).values()
    np.testing.assert_allclose(above, (np.maximum(x / 2, 0) ** EXPONENT).mean(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_allclose(below, (np.maximum(-x / 3, 0) ** EXPONENT).mean(axis=(0, 1)), rtol=1e-4)
    assert below[2] == 0


def test_histograms_are_those_of_all_samples() -> None:
    x = GENERATOR.normal(size=(9, 40, 3)).astype(np.float32)
    grid, positive = Grid.covering(x.min(), x.max()), Grid.covering(0, x.max())
    found = observed(x, [Query("x", grid), Query("y", positive)])
    bins = np.clip(np.rint(x / grid.width) + grid.zero, 0, BINS - 1).astype(int)
    # float32 in the graph, float64 here: a value on the border may fall next door
    assert np.abs(found[Query("x", grid)] - np.bincount(bins.reshape(-1), minlength=BINS)).sum() <= 4
    assert found[Query("x", grid)].sum() == x.size
    assert found[Query("y", positive)][positive.zero] >= (x <= 0).sum()


@pytest.mark.parametrize("count", [1, 70])
@pytest.mark.parametrize("opset", [7, 13, 17, 21])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_moments_of_channels_are_those_of_all_samples(axis: int, opset: int, count: int) -> None:
    x = GENERATOR.normal(size=(count if axis else 1, 4, 3)).astype(np.float32)
    opset = max(opset, 9)  # Sign is new there
    moments = channel_moments(model(opset), [("y", axis)], samples_of(x), Session.of, zeros=True)["y", axis]
    y = np.moveaxis(np.maximum(x, 0), axis, 0).reshape(x.shape[axis], -1)
    np.testing.assert_allclose(moments.mean, y.mean(1), rtol=1e-5)
    np.testing.assert_allclose(moments.magnitude, np.abs(y).mean(1), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, y.var(1), rtol=1e-4)
    np.testing.assert_allclose(moments.zeros, (y == 0).mean(1), rtol=1e-5)


def test_a_vector_without_other_axes_is_its_own_mean() -> None:
    vector = from_text('<ir_version: 9, opset_import: ["" : 17]> g (float[3] x) => (float[3] y) { y = Neg (x) }')
    samples = open_samples({"x": np.array([[1, -2, 3]], np.float32)}, Session.of(vector).inputs)
    np.testing.assert_allclose(channel_moments(vector, [("y", 0)], samples, Session.of)["y", 0].mean, [-1, 2, -3])


def test_each_element_counts_alike_where_samples_are_of_different_sizes() -> None:
    arrays = [np.full((1, size, 3), size, np.float32) for size in (2, 6, 4)]
    observer = Observer(model(), [Query("x", Statistic.MEAN, 2)], Session.of)
    assert [observer(Batch({"x": array}))[Query("x", Statistic.MEAN, 2)][0] for array in arrays] == [2, 6, 4]
    samples, _ = counted_samples([{"x": array} for array in arrays])
    found = observe(model(), [Query("x", Statistic.MEAN, 2)], samples, Session.of)[Query("x", Statistic.MEAN, 2)]
    np.testing.assert_allclose(found, np.concatenate(arrays, axis=1)[0].mean(0), rtol=1e-6)


def test_what_is_no_float_is_observed_as_one() -> None:
    integers = from_text('<ir_version: 9, opset_import: ["" : 17]> g (int64[N,2] x) => (int64[N,2] y) { y = Neg (x) }')
    samples = open_samples({"x": np.array([[1, 2], [3, 4]])}, Session.of(integers).inputs)
    found = ranges(observe(integers, range_queries(["y"]), samples, Session.of), ["y"])
    assert found["y"] == Range(-4.0, -1.0)


@pytest.mark.parametrize("size", [10, 100_000])
def test_what_leaves_the_model_does_not_grow_with_its_values(size: int) -> None:
    sizes = []

    def open_session(probe):
        session = Session.of(probe)
        run = session.run

        def counted(feeds, outputs=None):
            results = run(feeds, outputs)
            sizes.append(sum(array.nbytes for array in results.values()))
            return results

        session.run = counted
        return session

    queries = [*range_queries(["x", "y"]), Query("y", Statistic.MEAN, 2), Query("x", Grid.covering(-1, 1))]
    observe(model(), queries, samples_of(np.ones((1, size, 3), np.float32)), open_session)
    assert sizes
    assert max(sizes) <= 4 * BINS + 100
