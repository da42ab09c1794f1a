"""Real exported graphs, whole: simplified they say the same, pruned they are consistent.

The whole zoo is run by `make bench`; here are those that are small, and each of another kind.
"""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
import onnx
import onnxruntime
import pytest
from whole_gradients import differentiate, directional_error
from zoo import zoo_file

import onnxslim
from onnxslim.data import synthetic_samples

pytestmark = [pytest.mark.zoo, pytest.mark.slow]

SIMPLIFIED = {
    "lstm.ts": 53,
    "unet.ts": 34,
    "bert_small.ts": 267,
    "gpt2_small.dynamo": 156,
    "mobilenet_v3_small.ts": 159,
    "shufflenet_v2_x1_0.ts": 425,
    "squeezenet1_1.ts": 83,
}
"""Nodes as exported."""
PRUNED = ("mobilenet_v3_small.ts", "shufflenet_v2_x1_0.dynamo", "squeezenet1_1.ts", "unet.ts")

DIFFERENTIATED = {"squeezenet1_1.ts": 34, "bert_small.ts": 28, "lstm.ts": 8}
"""Weights that a gradient is built of, after simplifying."""
SLOPE = 5e-3
"""Relative error of a slope in float32: steps so small that no Relu bends are rounded a little."""


@pytest.fixture
def filled(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> pathlib.Path:
    """The thin model that the test asks for, with seeded weights."""
    thin = zoo_file("thin", f"{request.param}.onnx")
    spec = importlib.util.spec_from_file_location("thin", zoo_file("thin.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path / f"{request.param}.onnx"
    module.fill(thin, path)
    return path


def run(path: pathlib.Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("filled", SIMPLIFIED, indirect=True)
def test_simplified_models_say_the_same(filled: pathlib.Path) -> None:
    out = filled.with_name("out.onnx")
    (record,) = onnxslim.optimize(filled, "simplify", output=out, measure=False).report.passes
    assert record.kept, record.reason
    assert len(onnx.load(out).graph.node) < SIMPLIFIED[filled.stem]
    onnx.checker.check_model(onnx.load(out), full_check=True)
    for batch in synthetic_samples(onnxslim.open_model(filled), 2, 1).batches():
        for one, other in zip(run(filled, batch.feeds), run(out, batch.feeds), strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("filled", PRUNED, indirect=True)
def test_pruned_models_are_consistent(filled: pathlib.Path) -> None:
    out = filled.with_name("out.onnx")
    report = onnxslim.optimize(filled, "prune:ratio=0.3", output=out, measure=False).report
    assert report.passes[-1].kept, report.passes[-1].reason
    assert 0.25 <= 1 - report.after.macs / report.before.macs <= 0.35
    onnx.checker.check_model(onnx.load(out), full_check=True)
    feeds = next(synthetic_samples(onnxslim.open_model(filled), 1).batches()).feeds
    shapes = [[output.shape for output in run(path, feeds)] for path in (filled, out)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("filled", DIFFERENTIATED, indirect=True)
def test_the_gradient_of_all_weights_is_the_slope(filled: pathlib.Path) -> None:
    model = onnxslim.optimize(filled, "simplify", measure=False, check=False).model
    feeds = next(synthetic_samples(model, 2).batches(2)).feeds
    whole = differentiate(model, feeds)
    assert len(whole.weights) == DIFFERENTIATED[filled.stem]
    assert directional_error(whole, feeds) < SLOPE
