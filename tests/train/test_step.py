"""A training step: the weights that are asked for move along their gradients, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text
from train_models import WEIGHTS, mlp, samples, weights_of

from onnxslim.errors import NotDifferentiable
from onnxslim.runtime.resident import ResidentState
from onnxslim.runtime.session import Session
from onnxslim.train.losses import LossKind, LossTerm
from onnxslim.train.optimizer import RATE, Optimizer, OptimizerKind
from onnxslim.train.step import compile_step

TERM = LossTerm(LossKind.MSE, "y", "t")
SGD = Optimizer(OptimizerKind.SGD, momentum=0.0)


def test_a_step_of_gradient_descent_is_that_of_central_differences() -> None:
    student, x = mlp(1), samples(8).first(8)["x"]
    target = np.random.default_rng(3).standard_normal((8, 3)).astype(np.float32)
    step = compile_step(student, {"x": (8, 4)}, WEIGHTS, [TERM], SGD)
    state = ResidentState(Session.of(step.model), weights_of(student), step.successors)
    feeds = {"x": x, step.targets["t"]: target, step.scalars[RATE]: np.asarray(1, np.float32)}
    state.run(feeds, step.losses)
    moved = state.read(WEIGHTS)

    def loss(weights: dict[str, np.ndarray]) -> float:
        h = np.maximum(x.astype(np.float64) @ weights["w"] + weights["c"], 0)
        return float(((h @ weights["v"] + weights["d"] - target) ** 2).mean())

    exact = {name: array.astype(np.float64) for name, array in weights_of(student).items()}
    for name, array in exact.items():
        for place in list(np.ndindex(array.shape))[::3]:
            ends = []
            for sign in (1, -1):
                changed = array.copy()
                changed[place] += sign * 1e-6
                ends.append(loss({**exact, name: changed}))
            gradient = (ends[0] - ends[1]) / 2e-6
            assert array[place] - moved[name][place] == pytest.approx(gradient, rel=1e-3, abs=1e-4)


def test_only_what_is_asked_for_is_trained_and_the_student_stays() -> None:
    student = mlp(1)
    before = weights_of(student)
    step = compile_step(student, {"x": (8, 4)}, ["v"], [TERM], Optimizer())
    assert step.weights == ("v",)
    assert set(step.states) == {"v.first_moment", "v.second_moment"}
    assert {"w", "c", "d"} <= set(step.model.graph.initializers)
    for name, array in weights_of(student).items():
        np.testing.assert_array_equal(array, before[name])


def test_elements_behind_a_mask_stay() -> None:
    student = mlp(1)
    mask = np.random.default_rng(0).random((4, 8)) < 0.5
    step = compile_step(student, {"x": (8, 4)}, WEIGHTS, [TERM], Optimizer(), {"w": mask})
    state = ResidentState(Session.of(step.model), {**weights_of(student), **step.start()}, step.successors)
    feeds = {"x": samples(8).first(8)["x"], step.targets["t"]: np.zeros((8, 3), np.float32)}
    scalars = {step.scalars[name]: np.asarray(value, np.float32) for name, value in Optimizer().values(0, 0.1).items()}
    state.run({**feeds, **scalars}, step.losses)
    moved = state.read(["w"])["w"] != weights_of(student)["w"]
    assert not moved[~mask].any()
    assert moved.any()


def test_inputs_of_a_step_get_out_of_the_way_of_names_of_the_model() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[2,3] learning_rate) => (float[2,3] loss) {
        t = Mul (learning_rate, w)  loss = Tanh (t) }"""
    student = from_text(text, w=np.ones(3, np.float32))
    step = compile_step(student, {}, ["w"], [LossTerm(LossKind.MSE, "loss", "t")], SGD)
    assert {*step.scalars.values(), *step.targets.values(), *step.losses}.isdisjoint({"learning_rate", "loss", "t"})
    feeds = {"learning_rate": np.ones((2, 3), np.float32), "w": np.ones(3, np.float32)}
    feeds |= {step.targets["t"]: np.zeros((2, 3), np.float32), step.scalars[RATE]: np.asarray(0.1, np.float32)}
    assert np.isfinite(Session.of(step.model).run(feeds)[step.losses[0]])


def test_an_op_without_a_gradient_is_named() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[2,3] x) => (float[2,3] y) {
        a = Mul (x, w)  y = com.microsoft.Strange (a) }"""
    student = from_text(text, w=np.ones(3, np.float32))
    student.graph[-1].name = "strange"
    with pytest.raises(NotDifferentiable, match="strange") as caught:
        compile_step(student, {}, ["w"], [TERM], SGD)
    assert caught.value.hint


def test_a_weight_that_no_gradient_reaches_is_a_constant_of_the_step() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[2,3] x) => (float[2,3] y) {
        a = Mul (x, w)  b = Mul (x, v)  c = Floor (b)  y = Add (a, c) }"""
    ones = np.ones(3, np.float32)
    student = from_text(text, w=ones, v=1.5 * ones)
    step = compile_step(student, {}, ["w", "v"], [TERM], SGD)
    assert step.weights == ("w",)
    feeds = {"x": np.ones((2, 3), np.float32), "w": ones, step.targets["t"]: np.zeros((2, 3), np.float32)}
    found = Session.of(step.model).run({**feeds, step.scalars[RATE]: np.asarray(0.1, np.float32)})
    assert found[step.losses[0]] == pytest.approx(4.0)


@pytest.mark.parametrize("kind", OptimizerKind)
@pytest.mark.parametrize("inside", [np.float32, np.float64])
def test_weights_of_any_precision_follow_a_loss_in_float32(inside: type[np.floating], kind: OptimizerKind) -> None:
    code = 1 if inside is np.float32 else 11
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g (float16[2,3] x) => (float16[2,3] y) {{
        a = Cast <to = {code}> (x)  b = Mul (a, w)  y = Cast <to = 10> (b) }}"""
    student = from_text(text, w=np.ones(3, inside))
    optimizer = Optimizer(kind, clip=10.0)
    step = compile_step(student, {}, ["w"], [TERM], optimizer)
    state = ResidentState(Session.of(step.model), {"w": np.ones(3, inside), **step.start()}, step.successors)
    feeds = {"x": np.ones((2, 3), np.float16), step.targets["t"]: np.zeros((2, 3), np.float16)}
    scalars = {step.scalars[name]: np.asarray(value, np.float32) for name, value in optimizer.values(0, 0.1).items()}
    assert state.run({**feeds, **scalars}, step.losses)[step.losses[0]].dtype == np.float32
    moved = state.read(["w"])["w"]
    assert moved.dtype == inside
    assert (moved < 1).all()
