"""A separable student begins near the model that it is made of, is smaller, and learns to be like it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import error, images, network, normalized_network
from onnxslim.passes.distill import Distill
from onnxslim.passes.distill.separable import nearest_pair, separable_student
from sample_models import from_text
from story import make_context

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.linear_layer import linear_layers
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.errors import BadOptionValue
from onnxslim.pipeline.selection import EVERYTHING
from onnxslim.runtime.session import Session
from onnxslim.train.moving_statistics import estimate_statistics

FAST = Distill(student="separable", epochs=12, batch=16)


def kinds(model: ir.Model) -> list[str]:
    """Return the convolutions: dense, depthwise, or 1x1."""
    return [
        "depthwise" if layer.first.depthwise else "x".join(map(str, layer.kernel))
        for layer in linear_layers(model.graph)
        if layer.kernel
    ]


@pytest.mark.parametrize("windows", [1, 2, 9])
def test_the_pair_is_the_nearest_of_its_kind(windows: int) -> None:
    model = network()
    infer_shapes(model)
    layer = linear_layers(model.graph)[1]
    weight = layer.matrix()
    pair = nearest_pair(layer, windows)
    singular = np.linalg.svd(weight.reshape(8, 9, 8), compute_uv=False)
    assert ((pair.dense - weight) ** 2).sum() == pytest.approx((singular[:, windows:] ** 2).sum(), abs=1e-12)
    first, second = pair.factors
    assert first.shape == (8, 3, 3, min(windows, 8))
    made = np.einsum("ckle,ceo->cklo", first, second).reshape(weight.shape)
    np.testing.assert_allclose(made, pair.dense, atol=1e-12)


def test_it_begins_with_the_means_and_variances_of_the_model() -> None:
    model = network()
    infer_shapes(model)
    student, (told, *_) = separable_student(model, 1, EVERYTHING, make_context(network(), images(256)))
    assert kinds(student) == ["depthwise", "1x1", "depthwise", "1x1"]
    assert "2 convolutions became pairs" in told.action
    assert "fewer" in told.reason
    for name in ("a", "b"):
        mine, wanted = (Session.of(with_output(each, name)).run(images(256))[name] for each in (student, model))
        np.testing.assert_allclose(mine.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=0.02)
        np.testing.assert_allclose(mine.std((0, 2, 3)), wanted.std((0, 2, 3)), rtol=0.02)


def with_output(model: ir.Model, name: str) -> ir.Model:
    model = model.clone()
    value = next(value for node in model.graph for value in node.outputs if value.name == name)
    model.graph.outputs.append(value)
    return model


@pytest.mark.parametrize("opset", [13, 18])
def test_it_learns_and_takes_the_place_of_the_model(opset: int) -> None:
    model, teacher = network(opset), network(opset)
    before = measure_cost(model).macs
    known = network()
    infer_shapes(known)
    start, _ = separable_student(known, 1, EVERYTHING, make_context(known, images(256)))
    change = FAST.run(model, make_context(teacher, images(256)))
    assert change.modified
    assert kinds(model) == ["depthwise", "1x1", "depthwise", "1x1"]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph)  # folded
    assert measure_cost(model).macs < 0.5 * before
    assert error(model, teacher) < 0.7 * error(start, teacher)
    assert [str(value.shape) for value in model.graph.inputs] == ["[N,3,8,8]"]


def test_patterns_choose_the_convolutions_and_all_of_the_student_is_trained() -> None:
    model = network()
    given = {name: value.const_value.numpy().copy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
    change = Distill(student="separable", epochs=4, batch=16, exclude=("w1", "nosuch")).run(
        model, make_context(network(), images(128))
    )
    assert change.modified
    assert kinds(model) == ["3x3", "depthwise", "1x1"]
    assert (model.graph.initializers["w1"].const_value.numpy() != given["w1"]).any()  # type: ignore[union-attr]
    assert any("nosuch" in note.action for note in change.notes)


def test_what_cannot_become_a_pair_stays_and_says_why() -> None:
    few = from_text(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,16,6,6] y) { y = Conv (x, w) }""",
        w=np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32),
    )
    change = FAST.run(few, make_context(few.clone(), images(64)))
    assert not change.modified
    assert [note.reason for note in change.notes] == [
        "it has no dense convolution that a separable pair could replace",
        "it makes 16 outputs of 3 channels: as a pair they would be sums of so few",
    ]
    whole = Distill(student="separable", windows=8).run(network(), make_context(network(), images(64)))
    assert not whole.modified
    assert "no fewer" in whole.notes[1].reason
    with pytest.raises(BadOptionValue, match="windows is 0"):
        Distill(windows=0)


def test_statistics_are_those_of_the_samples() -> None:
    model = normalized_network()
    given = images(128)
    found = estimate_statistics(model, make_context(model, given).samples, Session.of)
    infer_shapes(model)
    made = Session.of(with_output(model, "a")).run(given)["a"]
    assert found.keys() == {"m1", "d1"}
    np.testing.assert_allclose(found["m1"], made.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(found["d1"], made.var((0, 2, 3)), rtol=1e-2)  # of each batch about its own mean
