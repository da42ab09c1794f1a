"""Samples of a nested graph are what the model around it gives it, in the runs that were asked for and in no others."""

from __future__ import annotations

import numpy as np
import pytest
from counted_samples import counted_samples
from sample_models import from_text

from onnxslim.data import Samples, open_samples
from onnxslim.observe.inner_samples import inner_samples
from onnxslim.runtime.session import Session

TEXT = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3] x, float k) => (float[N,3] y) {
    doubled = Add (x, x)  raised = Add (doubled, k)  y = Tanh (raised) }"""
NAMES = ("x", "raised", "k")


def samples_of(count: int) -> Samples:
    return open_samples({"x": np.arange(3 * count, dtype=np.float32).reshape(count, 3)}, Session.of(model()).inputs)


def model():
    return from_text(TEXT, k=np.array(1, np.float32))


def first_elements(samples: Samples, name: str = "raised") -> list[float]:
    return [float(batch.feeds[name].reshape(-1)[0]) for batch in samples.batches()]


def test_values_are_inputs_what_nodes_make_and_constants():
    inner = inner_samples(model(), NAMES, samples_of(4), Session.of)
    for index, batch in enumerate(inner.batches()):
        expected = np.arange(3 * index, 3 * index + 3, dtype=np.float32)[None]
        np.testing.assert_array_equal(batch.feeds["x"], expected)
        np.testing.assert_array_equal(batch.feeds["raised"], 2 * expected + 1)
        assert batch.feeds["k"].shape == ()
        assert batch.feeds.keys() == set(NAMES)
    assert inner.count == 4


def test_some_runs_are_read_drawn_from_and_split():
    inner = inner_samples(model(), NAMES, samples_of(40), Session.of, np.array([3, 5, 8, 13, 21]))
    whole = [6.0 * run + 1 for run in (3, 5, 8, 13, 21)]
    assert first_elements(inner) == whole
    assert first_elements(inner.take(np.array([4, 0]))) == [whole[4], whole[0]]
    assert sorted(first_elements(inner.draw(3))) == sorted(set(whole) & set(first_elements(inner.draw(3))))
    left, right = inner.split(0.4)
    assert sorted(first_elements(left) + first_elements(right)) == whole
    assert (left.count, right.count) == (2, 3)


def test_samples_are_read_as_they_are_needed():
    opened: list[int] = []

    class Spy:
        """A session that notes its runs."""

        def __init__(self, model):
            self._inner = Session.of(model)
            self.inputs = self._inner.inputs

        def run(self, feeds, outputs=None):
            opened.append(int(feeds["x"][0, 0]))
            return self._inner.run(feeds, outputs)

    inner = inner_samples(model(), NAMES, samples_of(100), Spy, np.arange(0, 100, 10))
    assert not opened
    inner.first()
    assert opened == [0]
    stream = inner.batches()
    next(stream), next(stream)
    assert opened == [0, 0, 30]


@pytest.mark.parametrize("synthetic", [False, True])
def test_values_of_synthetic_samples_are_synthetic(synthetic):
    samples, _ = counted_samples([{"x": np.zeros((1, 3), np.float32)}])
    samples.synthetic = synthetic
    assert inner_samples(model(), NAMES, samples, Session.of).synthetic is synthetic


@pytest.mark.parametrize("size", [None, 1, 8])
def test_no_two_runs_are_joined(size):
    assert [batch.count for batch in inner_samples(model(), NAMES, samples_of(5), Session.of).batches(size)] == [1] * 5


def test_a_run_of_a_fixed_batch_is_one_sample():
    fixed = from_text(TEXT.replace("N,", "2,"), k=np.array(1, np.float32))
    feeds = {"x": np.arange(27, dtype=np.float32).reshape(9, 3)}
    samples = open_samples(feeds, Session.of(fixed).inputs)
    inner = inner_samples(fixed, NAMES, samples, Session.of)
    assert inner.count == 4
    assert first_elements(inner) == [12.0 * run + 1 for run in range(4)]
    assert first_elements(inner_samples(fixed, NAMES, samples, Session.of, np.array([3, 1]))) == [37.0, 13.0]


def test_inputs_alone_need_no_run():
    def never(model):
        raise AssertionError("nothing is to be computed")

    samples, streams = counted_samples([{"x": np.full((1, 3), index, np.float32)} for index in range(4)])
    assert first_elements(inner_samples(model(), ["x", "k"], samples, never), "x") == [0.0, 1.0, 2.0, 3.0]
    assert streams == {4: 1}
