"""Images of 8 bits are held exactly: they are brought to their levels, and the first convolution takes that back."""

from __future__ import annotations

import numpy as np
import pytest
from onnxslim.passes.quant import Quant, cost
from onnxslim.passes.quant.input_grid import align_inputs, find_grid
from sample_models import from_text
from story import HERE, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.session import Session

MEAN = np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,16,16] x) => (float[N,5] y) {
    a = Conv <ATTRIBUTES> (x, u, b)  r = Relu (a)  p = GlobalAveragePool (r)  f = Flatten (p)  y = Gemm (f, w) }"""


def pixels(count=24, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 3, 16, 16))


def normalised(levels):
    return ((levels / 255 - MEAN) / DEVIATION).astype(np.float32)


def net(attributes="pads = [1, 2, 0, 1]", groups=1):
    generator = np.random.default_rng(1)
    sizes = {"u": (6, 3 // groups, 3, 3), "b": (6,), "w": (6, 5)}
    weights = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return from_text(NET.replace("ATTRIBUTES", attributes), **weights)


def aligned(model, images):
    after = model.clone()
    infer_shapes(after)
    context = make_context(model, {"x": images}, target=HERE)
    return after, align_inputs(after, context.samples)


def outputs(model, images):
    return Session.of(model, HERE).run({"x": images})["y"]


def test_step_and_offset_of_each_channel_are_found():
    grid = find_grid(normalised(pixels()))
    np.testing.assert_allclose(grid.step, (1 / 255 / DEVIATION).ravel(), rtol=1e-4)
    np.testing.assert_allclose(grid.offset, (-MEAN / DEVIATION).ravel(), rtol=1e-4)


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32),
        normalised(pixels())[:, 0],
        np.zeros((4, 3, 16, 16), np.float32),
        np.full((4, 3, 16, 16), np.nan, np.float32),
        np.tile(normalised(pixels()), (1, 2, 1, 1)),
        np.random.default_rng(0).integers(0, 1000, (8, 3, 16, 16)).astype(np.float32),
        normalised(pixels()) + normalised(pixels(seed=1)) * np.float32(0.3),
    ],
    ids=["noise", "rank 3", "zeros", "nan", "six channels", "a thousand levels", "blended"],
)
def test_what_is_no_image_of_8_bits_has_no_grid(array):
    assert find_grid(array) is None


@pytest.mark.parametrize(
    ("attributes", "groups", "pads"),
    [
        ("pads = [1, 2, 0, 1]", 1, (1, 2, 0, 1)),
        ("strides = [2, 2]", 1, (0, 0, 0, 0)),
        ("pads = [1, 1, 1, 1], group = 3", 3, (1, 1, 1, 1)),
    ],
)
def test_the_model_computes_what_it_did_from_whole_numbers(attributes, groups, pads):
    model, images = net(attributes, groups), normalised(pixels())
    after, names = aligned(model, images)
    assert len(names) == 1
    np.testing.assert_allclose(outputs(after, images), outputs(model, images), rtol=1e-3, atol=1e-4)
    after.graph.outputs[:] = [next(value for node in after.graph for value in node.outputs if value.name == names[0])]
    (levels,) = Session.of(after, HERE).run({"x": images}).values()
    top, left, bottom, right = pads
    inner = levels[:, :, top : levels.shape[2] - bottom, left : levels.shape[3] - right]
    np.testing.assert_allclose(inner, np.rint(inner), atol=0.01)
    assert np.rint(inner.min()) >= 0
    assert np.rint(inner.max()) == 255


@pytest.mark.parametrize("attributes", ['auto_pad = "SAME_UPPER"'])
def test_what_pads_by_itself_is_left_alone(attributes):
    model, images = net(attributes), normalised(pixels())
    after, names = aligned(model, images)
    assert not names
    assert [node.op_type for node in after.graph] == [node.op_type for node in model.graph]


def test_the_input_is_quantized_level_by_level():
    model, images = net(), normalised(pixels(64))
    after = model.clone()
    change = Quant().run(after, make_context(model, {"x": images}, target=HERE))
    assert [note for note in change.notes if note.action == "256 levels"]
    first = next(node for node in after.graph if node.op_type == "QuantizeLinear")
    assert [value.const_value.numpy() for value in first.inputs[1:]] == [1.0, 0]
    wanted, found = outputs(model, images), outputs(after, images)
    assert np.square(wanted - found).sum() < 1e-3 * np.square(wanted).sum()


def test_the_convolution_that_reads_levels_does_not_stay_in_float_for_its_time(monkeypatch):
    monkeypatch.setattr(cost, "SPEED", 1.0)
    monkeypatch.setattr(cost, "ELEMENT", 0.0)
    model, images = net(), normalised(pixels(64))
    after = model.clone()
    change = Quant().run(after, make_context(model, {"x": images}, target=HERE))
    assert {note.subject for note in change.notes if note.code == "costly"} == {"y"}, "all others may"
    assert [note for note in change.notes if note.action == "256 levels"]


def test_the_first_image_may_be_dark():
    model, levels = net(), pixels(64)
    levels[0] = 7
    _, names = aligned(model, normalised(levels))
    assert names


def test_other_images_are_quantized_as_before():
    model = net()
    images = normalised(pixels(64) + np.random.default_rng(2).uniform(-0.5, 0.5, (64, 3, 16, 16)))
    change = Quant().run(model, make_context(model, {"x": images}, target=HERE))
    assert change.modified
    assert not [note for note in change.notes if note.action == "256 levels"]
    assert "Pad" not in {node.op_type for node in model.graph}
