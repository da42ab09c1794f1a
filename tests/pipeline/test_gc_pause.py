"""The collector is patient while a model is worked on, and afterwards as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from sample_models import from_text

import onnxslim
from onnxslim.errors import OnnxslimError
from onnxslim.pipeline.gc_pause import THRESHOLDS, patient_collector
from onnxslim.pipeline.interface import Progress

TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { a = Relu (x)  y = Relu (a) }"""


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_thresholds_are_raised_and_set_back() -> None:
    gc.set_threshold(700, 10, 1000)
    with patient_collector():
        assert gc.get_threshold() == (THRESHOLDS[0], THRESHOLDS[1], 1000)
        with patient_collector():
            pass
        assert gc.get_threshold()[0] == THRESHOLDS[0]
    assert gc.get_threshold() == (700, 10, 1000)


def test_a_collector_that_is_off_stays_off() -> None:
    gc.set_threshold(0, 10, 10)
    with patient_collector():
        assert gc.get_threshold() == (0, 10, 10)


@pytest.mark.parametrize("passes", ["simplify", "nothing_of_this_name"])
def test_optimize_leaves_it_as_it_was(passes: str) -> None:
    gc.set_threshold(701, 11, 12)
    seen: list[int] = []

    class Watching(Progress):
        def __call__(self, stage: str, done: int, total: int | None) -> None:
            seen.append(gc.get_threshold()[0])

    try:
        onnxslim.optimize(from_text(TEXT), passes, check=False, progress=Watching())
    except OnnxslimError:
        assert not seen
    else:
        assert set(seen) == {THRESHOLDS[0]}
    assert gc.get_threshold() == (701, 11, 12)
