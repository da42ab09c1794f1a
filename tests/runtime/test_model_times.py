"""Times of models and their nodes: measured once for models of one structure, whatever they are called and weigh."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.runtime.model_times import ModelTimes, structure
from onnxslim.runtime.target import Target

TARGET = Target("cpu", "a processor", "avx2", 1)
FEEDS = {"x": np.zeros((2, 4), np.float32)}
TEXT = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
    a = MatMul (x, w)  b = Relu (a)  y = Softmax <axis = 1> (b) }"""


def model(text: str = TEXT, size: int = 4, seed: int = 0) -> ir.Model:
    return from_text(text, w=np.random.default_rng(seed).normal(size=(4, size)).astype(np.float32))


class Clock:
    """Says that models take one, two, three milliseconds, the second one never."""

    def __init__(self) -> None:
        self.calls = 0

    def models(self, layers: Sequence[tuple[ir.Model, Mapping[str, Any]]], target: Target) -> list[float | None]:
        self.calls += 1
        return [None if index == 1 else float(index + 1) for index in range(len(layers))]

    def kernels(
        self, timed: ir.Model, feeds: Mapping[str, Any], target: Target, macs: Mapping[str, int], runs: int
    ) -> tuple[dict[str, float], float]:
        self.calls += 1
        return {"a": 3.0, "y": 0.0}, 0.0

    def times(self, folder: pathlib.Path) -> ModelTimes:
        return ModelTimes(TARGET, self.models, self.kernels, folder=folder)


def test_models_that_were_compared_are_not_timed_again(tmp_path: pathlib.Path) -> None:
    clock, pair = Clock(), [model(), model(size=5), model(size=6)]
    assert clock.times(tmp_path).together(pair, FEEDS) == [1.0, None, 3.0]
    assert clock.times(tmp_path).together(pair, FEEDS) == [1.0, None, 3.0]
    assert clock.times(tmp_path).together([model(seed=1), *pair[1:]], FEEDS) == [1.0, None, 3.0]
    assert clock.calls == 1
    clock.times(tmp_path).together(pair[:2], FEEDS)
    assert clock.calls == 2, "what takes turns with others is another measurement"


def test_the_nodes_of_a_model_are_not_timed_again(tmp_path: pathlib.Path) -> None:
    clock, macs = Clock(), {"a": 16}
    known, rest = clock.times(tmp_path).of_nodes(model(), FEEDS, macs, 5)
    assert known == {"a": 3.0, "y": 0.0}
    renamed = TEXT.replace("a = ", "c = ").replace("(a)", "(c)")
    again, rest_again = clock.times(tmp_path).of_nodes(model(renamed, seed=1), FEEDS, macs, 5)
    assert again == pytest.approx({"c": 3.0, "y": 0.0}, abs=1e-6)
    assert rest_again == pytest.approx(rest, abs=1e-6)
    assert clock.calls == 1
    clock.times(tmp_path).of_nodes(model(), FEEDS, macs, 6)
    assert clock.calls == 2


@pytest.mark.parametrize(
    "other",
    [
        model(size=5),
        model(TEXT.replace("Relu", "Neg")),
        model(TEXT.replace("axis = 1", "axis = 0")),
        model(TEXT.replace("y = Softmax <axis = 1> (b)", "y = Softmax <axis = 1> (a)")),
        model(TEXT.replace(": 17", ": 18")),
    ],
)
def test_another_structure_has_other_times(other: ir.Model) -> None:
    assert structure(other, FEEDS) != structure(model(), FEEDS)


def test_sizes_are_part_of_the_structure() -> None:
    assert structure(model(), {"x": np.zeros((3, 4), np.float32)}) != structure(model(), FEEDS)
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,4] x) => (float[a,b] y) { y = Reshape (x, s) }"""
    first, second = (from_text(text, s=np.array(sizes, np.int64)) for sizes in ([-1, 2], [-1, 4]))
    assert structure(first, FEEDS) != structure(second, FEEDS)


def test_factors_that_sizes_come_of_are_part_of_the_structure() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,C,H,W] x) => (float[N,C,I,J] y) {
        y = Resize (x, , s) }"""
    first, second = (from_text(text, s=np.float32([1, 1, by, by])) for by in (2, 16))
    assert structure(first, FEEDS) != structure(second, FEEDS)


def test_branches_are_part_of_the_structure() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (bool c, float[N,4] x) => (float[N,4] y) {
        y = If (c) <then_branch = t () => (float[N,4] u) { u = Relu (x) },
                    else_branch = e () => (float[N,4] v) { v = Neg (x) }> }"""
    assert structure(from_text(text), FEEDS) != structure(from_text(text.replace("Neg", "Abs")), FEEDS)
