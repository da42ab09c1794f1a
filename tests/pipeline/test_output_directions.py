"""Gradients along random directions of the outputs: their mean square is that of the Jacobian."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from story import make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Array
from onnxslim.data import open_samples
from onnxslim.errors import NotDifferentiable
from onnxslim.pipeline.opset import differentiable
from onnxslim.pipeline.output_directions import OutputDirections, affordable_runs
from onnxslim.runtime.session import Session

TWO = """<ir_version: 8, opset_import: ["" : %d]> g (%s[N,3] x, %s u, %s v) => (%s[N,4] y, %s[N,2] z, int64[N,1] a) {
    h = MatMul (x, u)  t = Tanh (h)  y = MatMul (t, v)  z = MatMul (h, x2)  a = ArgMax <axis = 1> (y) }"""


def two_outputs(opset: int = 18, dtype: str = "float") -> tuple[ir.Model, dict[str, Array]]:
    random = np.random.default_rng(0)
    shapes = {"u": (3, 5), "v": (5, 4), "x2": (5, 2)}
    kind = np.float32 if dtype == "float" else np.float64
    weights = {name: random.standard_normal(shape).astype(kind) for name, shape in shapes.items()}
    text = (TWO % (opset, *[dtype] * 5)).replace(f"{dtype} v)", f"{dtype} v, {dtype} x2)")
    model = from_text(text, **weights)
    infer_shapes(model)
    return model, weights


def gradients(
    model: ir.Model, values: list[str], data: Mapping[str, Array], directions: int = 2, samples: int = 64, **inputs: Any
) -> list[Mapping[str, Array]]:
    context = make_context(model, open_samples(dict(data), Session.of(model).inputs))
    along = OutputDirections(model, samples, context, "a test", "do without")
    assert along.count <= samples
    return list(along.gradients(differentiable(model, "do without"), values, directions, inputs))


def rows(count: int, kind: Any = np.float32) -> dict[str, Array]:
    return {"x": np.random.default_rng(1).standard_normal((count, 3)).astype(kind)}


@pytest.mark.parametrize(("opset", "dtype"), [(11, "float"), (18, "float"), (18, "double")])
def test_their_mean_square_is_that_of_the_jacobian_of_outputs_of_equal_energy(opset: int, dtype: str) -> None:
    model, weights = two_outputs(opset, dtype)
    kind = np.float32 if dtype == "float" else np.float64
    data = rows(32, kind)
    made = Session.of(model).run(data)
    found = gradients(model, ["h"], data, directions=200)
    assert len(found) == 32 * 200
    assert {each["h"].dtype for each in found} == {np.dtype(kind)}
    square = sum(each["h"].T.astype(np.float64) @ each["h"] for each in found) / 200
    tangent = (1 - np.tanh(data["x"].astype(np.float64) @ weights["u"]) ** 2)[:, :, None]
    jacobians = {"y": tangent * weights["v"], "z": np.broadcast_to(weights["x2"], (32, 5, 2))}
    energies = {name: float(np.square(made[name].astype(np.float64)).sum()) for name in jacobians}
    parts = [np.einsum("nij,nkj->ik", each, each) / energies[name] for name, each in jacobians.items()]
    exact = sum(parts) / 2
    np.testing.assert_allclose(square, exact, atol=0.05 * np.abs(exact).max())
    assert not np.allclose(square, parts[0], atol=0.2 * np.abs(parts[0]).max())


def test_the_same_seed_gives_the_same() -> None:
    model, _ = two_outputs()
    one, two = (gradients(model, ["h", "t"], rows(4)) for _ in "ab")
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys() == {"h", "t"}
        for name, array in first.items():
            np.testing.assert_array_equal(array, second[name])
    assert not np.array_equal(one[0]["h"], one[1]["h"])  # of two directions


def test_values_that_no_output_depends_on_are_missing_and_others_may_have_one_gradient() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3] x, float[N,3] w, int64[N] k) => (float[N,3] y) {
        a = Relu (x)  y = Add (a, w)  b = Relu (w)  c = Add (k, k) }"""
    model = from_text(text)
    infer_shapes(model)
    data = {**rows(3), "w": rows(3)["x"], "k": np.arange(3)}
    (found, *_) = gradients(model, ["a", "w", "b", "x"], data, directions=1)
    assert found.keys() == {"a", "w", "x"}
    np.testing.assert_array_equal(found["a"], found["w"])


def test_outputs_without_axes_count() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3] x) => (float y) {
        h = Tanh (x)  y = ReduceMean <keepdims = 0> (h) }"""
    model = from_text(text)
    infer_shapes(model)
    (found,) = gradients(model, ["h"], rows(1), directions=1)
    assert np.abs(found["h"]).min() > 0


def test_a_sequence_beside_is_left_out() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3] x) => (float[N,3] y, seq(float[N,3]) s) {
        h = Tanh (x)  y = Mul (h, h)  s = SequenceConstruct (h, y) }"""
    model = from_text(text)
    (found, *_) = gradients(model, ["h"], rows(2), directions=1)
    assert found.keys() == {"h"}


def test_what_recurs_is_differentiated_as_well() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[4,1,3] x, float w, float r) => (float[4,1,1,2] y) {
        h = Relu (x)  y = RNN <hidden_size = 2> (h, w, r) }"""
    random = np.random.default_rng(0)
    shapes = {"w": (1, 2, 3), "r": (1, 2, 2)}
    model = from_text(
        text, **{name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    )
    infer_shapes(model)
    data = {"x": np.abs(random.standard_normal((4, 1, 3))).astype(np.float32)}
    (found, *_) = gradients(model, ["h"], data, directions=1)
    assert np.abs(found["h"][0]).max() > 0  # the first place, by way of all later ones


def test_a_name_that_is_taken_is_no_seed() -> None:
    model, _ = two_outputs()
    next(node for node in model.graph if node.op_type == "Tanh").outputs[0].name = "direction of output 0"
    assert gradients(model, ["h"], rows(2))


@pytest.mark.parametrize("nodes", ["a = ArgMax <axis = 1> (x)", "b = Sub (x, x) a = Relu (b)"])
def test_outputs_that_have_no_direction_are_refused(nodes: str) -> None:
    kind = "int64" if "ArgMax" in nodes else "float"
    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[N,3] x) => ({kind}[N,K] a) {{ {nodes} }}'
    with pytest.raises(NotDifferentiable, match="real numbers"):
        gradients(from_text(text), ["x"], rows(2))


def test_values_that_nothing_depends_on_are_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3] x) => (float[N,3] y, int64[N,1] a) {
        y = Relu (x)  h = Tanh (x)  a = ArgMax <axis = 1> (h) }"""
    model = from_text(text)
    infer_shapes(model)
    with pytest.raises(NotDifferentiable, match="no output depends"):
        gradients(model, ["h"], rows(2))


def test_as_many_runs_as_a_minute_allows() -> None:
    assert affordable_runs(10**9) == 666
    assert affordable_runs(0) > 10**9


def test_samples_of_the_commonest_shape_are_used(tmp_path: pathlib.Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,L] x) => (float[N,L] y) { h = Tanh (x) y = Mul (h, h) }'
    model = from_text(text)
    infer_shapes(model)
    for name, count, length in (("a", 2, 4), ("b", 5, 3), ("c", 1, 7)):
        np.savez(tmp_path / f"{name}.npz", x=np.ones((count, length), np.float32))
    context = make_context(model, open_samples(tmp_path, Session.of(model).inputs))
    along = OutputDirections(model, 8, context, "a test", "do without")
    found = list(along.gradients(model, ["h"], 1))
    assert along.count == 5
    assert [each["h"].shape for each in found] == [(1, 3)] * 5
