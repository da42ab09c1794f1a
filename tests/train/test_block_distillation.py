"""One block learns what it should make: it finds the weights that made it, and leaves what it is not to touch."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.distill import Distill
from sample_models import from_text
from story import make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.train.block_batches import BlockValues
from onnxslim.train.block_distillation import distill_block
from onnxslim.train.block_training import BlockTask

COUNT, SIZE = 128, 4
BLOCK = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,4] y) { y = MatMul (x, w) }"""


def block(weight: np.ndarray) -> ir.Model:
    model = from_text(BLOCK, w=weight.astype(np.float32))
    infer_shapes(model)
    return model


def task(target: np.ndarray) -> BlockTask:
    inputs = np.random.default_rng(0).standard_normal((COUNT, SIZE)).astype(np.float32)
    context = make_context(block(target), {"x": inputs})
    values = BlockValues({"x": inputs}, {}, {"y": (inputs @ target).astype(np.float32)})
    positions = np.arange(16, COUNT), np.arange(16)
    return BlockTask(values, {"y": 1.0}, positions, 16, 0, context.open_session, context.target)


WANTED = np.arange(16.0).reshape(SIZE, SIZE) / 8 - 1
SETTINGS = dataclasses.replace(Distill(epochs=60, batch=16, rate=0.05).settings)


def test_it_finds_the_weights_that_made_what_it_should_make() -> None:
    model = block(np.zeros((SIZE, SIZE)))
    trained, learned = distill_block(model, ["w"], SETTINGS, {}, task(WANTED))
    assert trained.evaluations[0].loss == pytest.approx(1, rel=0.2)  # of zeros, over the variance
    np.testing.assert_allclose(learned.arrays["w"], WANTED, atol=0.02)
    learned.write(model)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), learned.arrays["w"])  # type: ignore[union-attr]


def test_what_is_masked_stays() -> None:
    mask = np.ones((SIZE, SIZE), np.float32)
    mask[1] = 0
    _, learned = distill_block(block(np.zeros((SIZE, SIZE))), ["w"], SETTINGS, {"w": mask}, task(WANTED))
    assert not learned.arrays["w"][1].any()
    np.testing.assert_allclose(learned.arrays["w"][[0, 2, 3]], WANTED[[0, 2, 3]], atol=0.2)


def test_an_epoch_is_all_that_is_not_set_aside() -> None:
    settings = Distill(epochs=3, batch=16).settings
    trained, _ = distill_block(block(np.zeros((SIZE, SIZE))), ["w"], settings, {}, task(WANTED))
    assert [evaluation.step for evaluation in trained.evaluations] == [0, 7, 14, 21]
