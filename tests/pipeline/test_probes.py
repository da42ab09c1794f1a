"""The inputs on which two models are compared: of several sizes, made of the sample, and drawn only when asked for."""

from __future__ import annotations

import itertools

import numpy as np

from onnxslim.pipeline.probes import InputProbe, draw_probes
from onnxslim.runtime.session import TensorSpec

INPUTS = (
    TensorSpec("ids", np.dtype(np.int64), ("batch", "length")),
    TensorSpec("scale", np.dtype(np.float32), ()),
    TensorSpec("table", np.dtype(np.float32), (4, 2)),
)
SAMPLE = {
    "ids": np.array([[3, 1, 4, 1, 5]]),
    "scale": np.array(2.0, np.float32),
    "table": np.arange(8, dtype=np.float32).reshape(4, 2),
}


def probes() -> list[InputProbe]:
    return list(draw_probes(INPUTS, SAMPLE, np.random.default_rng(0)))


def test_each_symbolic_dimension_gets_another_size_first() -> None:
    assert [probe.at for probe in probes()[:5]] == ["", "batch = 2", "length = 2", "batch = 3", "length = 3"]


def test_what_is_drawn_is_of_the_sample_and_costs_what_was_said() -> None:
    for probe in probes():
        assert probe.cost == sum(array.size for array in probe.feeds.values()) / 14
        assert set(np.unique(probe.feeds["ids"])) <= {1, 3, 4, 5}
        assert probe.feeds["scale"] is SAMPLE["scale"]
        assert probe.feeds["table"] is SAMPLE["table"]
    assert probes()[3].feeds["ids"].shape == (3, 5)


def test_what_is_drawn_does_not_depend_on_what_else_was() -> None:
    alone = next(itertools.islice(draw_probes(INPUTS, SAMPLE, np.random.default_rng(0)), 4, None))
    after_others = [probe.feeds["ids"] for probe in probes()][4]
    np.testing.assert_array_equal(alone.feeds["ids"], after_others)
    assert alone.feeds is alone.feeds


def test_an_empty_sample_stays_empty_but_for_its_sizes() -> None:
    inputs = (TensorSpec("x", np.dtype(np.float32), ("n", 0)),)
    drawn = list(draw_probes(inputs, {"x": np.zeros((1, 0), np.float32)}, np.random.default_rng(0)))
    assert [probe.feeds["x"].shape for probe in drawn[:3]] == [(1, 0), (2, 0), (3, 0)]
