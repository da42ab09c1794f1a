"""Channels fade before they are cut: the penalty, its gradient, what it drives to zero, and what that is worth."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import PADDED, RESIDUAL
from distilled_models import error, images
from onnxslim.passes.distill import Distill
from onnxslim.passes.prune import Prune
from onnxslim.passes.prune.criterion import Criterion
from onnxslim.passes.prune.group_filter import GroupFilter
from onnxslim.passes.prune.group_lasso import GroupLasso
from sample_models import from_text
from story import make_context

from onnxslim.analysis.coupling import groups
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import synthetic_samples
from onnxslim.errors import BadOptionValue, UsageError
from onnxslim.pipeline.interface import Change, Progress
from onnxslim.runtime.resident import ResidentState
from onnxslim.runtime.session import Session
from onnxslim.train.optimizer import RATE, Optimizer, OptimizerKind
from onnxslim.train.step import compile_step

Arrays = dict[str, np.ndarray]
LASSO = GroupLasso(0.3, lambda model, coupling: groups(coupling), Session.of)
ALONE = Prune(
    ratio=0.5, align=1, criterion=Criterion.MAGNITUDE, sensitivity=False, compensate=False, refit=False, epochs=8
)
TRAINING = Distill(batch=16, rate=5e-3)


def weights_of(model: ir.Model) -> Arrays:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]


def residual(w: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the squares of the 16 channels of `RESIDUAL`, and how many weights each has: w2 reads and makes them."""
    parts = [[w["w1"][c], w["w2"][c], w["w2"][:, c], w["w3"][:, 4 * c : 4 * c + 4]] for c in range(16)]
    return np.array([sum((part**2).sum() for part in own) for own in parts]), np.full(16, 27 + 144 + 144 + 20)


def padded(w: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Return the same of the 8 channels of `PADDED`, which w3 reads backwards; the middle ones are those of w1."""
    squares, counts = np.zeros(8), np.zeros(8)
    for k in range(8):
        own = [w["w2"][k], w["w3"][:, 7 - k]] + ([w["w1"][k - 2], w["w2"][:, k - 2]] if 2 <= k < 6 else [])
        squares[k] = sum((part**2).sum() for part in own)
        counts[k] = sum(part.size for part in own)
    return squares, counts


@pytest.mark.parametrize(("model", "expected"), [(RESIDUAL, residual), (PADDED, padded)])
def test_a_norm_is_that_of_all_weights_that_a_channel_is_made_and_read_by(
    model: ir.Model, expected: Callable[[Arrays], tuple[np.ndarray, np.ndarray]]
) -> None:
    squares, counts = expected(weights_of(model))
    np.testing.assert_allclose(np.sort(LASSO.norms(model)), np.sort(np.sqrt(counts * squares)), rtol=1e-5)


def test_a_student_of_old_opsets_has_the_same_norms() -> None:
    text = """<ir_version: 8, opset_import: ["" : %d]> g (float[N,3] x) => (float[N,2] y)
        { a = MatMul (x, w) b = Relu (a) y = MatMul (b, v) }"""
    random = np.random.default_rng(0)
    weights = {"w": random.random((3, 4), np.float32), "v": random.random((4, 2), np.float32)}
    old, new = (from_text(text % opset, **weights) for opset in (11, 18))
    for model in (old, new):
        infer_shapes(model)
    np.testing.assert_allclose(LASSO.norms(old), LASSO.norms(new))
    expected = np.sqrt(5 * ((weights["w"] ** 2).sum(axis=0) + (weights["v"] ** 2).sum(axis=1)))
    np.testing.assert_allclose(LASSO.norms(new), expected, rtol=1e-5)


def test_a_step_goes_down_the_gradient_of_the_penalty_which_is_its_weight_at_first() -> None:
    student = RESIDUAL.clone()
    (term,) = LASSO(student)
    names = ["w1", "w2", "w3"]
    step = compile_step(student, {"x": (2, 3, 8, 8)}, names, [term], Optimizer(OptimizerKind.SGD, momentum=0.0))
    before = weights_of(RESIDUAL)
    state = ResidentState(Session.of(step.model), {name: before[name] for name in names}, step.successors)
    made = state.run({step.scalars[RATE]: np.asarray(1, np.float32)}, step.losses)
    assert made[step.losses[0]] == pytest.approx(0.3, rel=1e-5)
    squares, counts = residual(before)
    share = 0.3 * np.sqrt(counts) / np.sqrt(counts * squares).sum() / np.sqrt(squares)
    gradients = {
        "w1": share[:, None, None, None] * before["w1"],
        "w2": (share[:, None, None, None] + share[:, None, None]) * before["w2"],
        "w3": np.repeat(share, 4) * before["w3"],
    }
    moved = state.read(names)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(before[name] - moved[name], gradient, rtol=2e-3, atol=1e-6)


def test_a_channel_of_zeros_has_a_finite_gradient() -> None:
    student = RESIDUAL.clone()
    for name, axes in {"w1": [0], "w2": [0, 1]}.items():
        array = weights_of(student)[name].copy()
        for axis in axes:
            np.moveaxis(array, axis, 0)[3] = 0
        student.graph.initializers[name].const_value = ir.tensor(array, name=name)
    array = weights_of(student)["w3"].copy()
    array[:, 12:16] = 0
    student.graph.initializers["w3"].const_value = ir.tensor(array, name="w3")
    (term,) = LASSO(student)
    names = ["w1", "w2", "w3"]
    step = compile_step(student, {"x": (2, 3, 8, 8)}, names, [term], Optimizer(OptimizerKind.SGD, momentum=0.0))
    first = {name: weights_of(student)[name] for name in names}
    state = ResidentState(Session.of(step.model), first, step.successors)
    state.run({step.scalars[RATE]: np.asarray(1, np.float32)}, step.losses)
    moved = state.read(names)
    assert all(np.isfinite(array).all() for array in moved.values())
    assert not moved["w1"][3].any()


def network() -> ir.Model:
    """Return a net of 24 channels of which the outputs need some much, some little, and none not at all."""
    random = np.random.default_rng(5)
    needed = np.geomspace(1, 0.05, 24)[random.permutation(24)]
    weights = {
        "w1": random.standard_normal((24, 3, 3, 3)) / 5,
        "b1": random.standard_normal(24) / 5,
        "v": random.standard_normal((24, 5)) * needed[:, None],
        "d": np.zeros(5),
    }
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu (a)  p = GlobalAveragePool (r)  f = Flatten (p)
        y = Gemm (f, v, d) }""",
        **{name: array.astype(np.float32) for name, array in weights.items()},
    )
    infer_shapes(model)
    return model


def cut(step: Prune, training: Distill = TRAINING, **context: Any) -> tuple[ir.Model, Change]:
    model = network()
    return model, step.run(model, make_context(network(), images(256), behind=(training,), **context))


def driven(strength: float, **options: Any) -> Prune:
    return dataclasses.replace(ALONE, lasso=strength, **options)


def test_channels_that_the_outputs_do_without_fade() -> None:
    model, context = network(), make_context(network(), images(256))
    change = dataclasses.replace(TRAINING, epochs=8).go_on(model, context, LASSO)
    assert change.modified
    before, after = (np.sort(LASSO.norms(either)) for either in (network(), model))
    assert after.sum() < before.sum()
    assert after[:8].mean() / after[-8:].mean() < 0.8 * before[:8].mean() / before[-8:].mean()


def test_a_cut_loses_less_behind_it() -> None:
    plain, faded = cut(ALONE)[0], cut(driven(0.1))[0]
    assert [v.shape for v in plain.graph.initializers.values()] == [v.shape for v in faded.graph.initializers.values()]
    assert error(faded, network()) < 0.7 * error(plain, network())


def test_it_is_told_and_comes_out_again() -> None:
    (model, change), (again, _) = cut(driven(0.1)), cut(driven(0.1))
    assert ir.to_proto(model).SerializeToString() == ir.to_proto(again).SerializeToString()
    told = {note.subject: note for note in change.notes if note.action.endswith("(before the first cut)")}
    assert set(told) == {"model", "group lasso"}
    assert "steps of 16 samples, 8 epochs" in told["model"].reason
    assert float(told["group lasso"].action.split()[2]) < 1
    assert not [note for note in change.notes if "step 1" in note.action]


def test_there_is_a_training_before_each_step() -> None:
    _, change = cut(driven(0.1, steps=2))
    told = [note.action.partition("(")[2] for note in change.notes if note.action.startswith("loss on")]
    assert told == ["before the first cut)", "behind step 1)"]
    assert len([note for note in change.notes if note.subject == "group lasso"]) == 2


class Count(Progress):
    """Counts the steps of trainings."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, what: str, done: int, total: int | None) -> None:
        self.steps += what.startswith("distill")


def test_another_strength_cuts_what_was_trained_already() -> None:
    count = Count()
    context = make_context(network(), images(256), behind=(TRAINING,), progress=count)
    driven(0.1).run(network(), context)
    steps, model = count.steps, network()
    dataclasses.replace(driven(0.1), ratio=0.3).run(model, context)
    assert count.steps == steps > 0
    fresh, _ = cut(driven(0.1, ratio=0.3))
    assert ir.to_proto(model).SerializeToString() == ir.to_proto(fresh).SerializeToString()


def test_a_checkpoint_is_that_of_one_lasso(tmp_path: pathlib.Path) -> None:
    training = dataclasses.replace(TRAINING, checkpoint=str(tmp_path / "c"))
    cut(driven(0.1), training)
    assert [path.name for path in tmp_path.iterdir()] == ["c.step0"]
    with pytest.raises(UsageError, match="another"):
        cut(driven(0.2), training)


def test_a_model_that_is_not_cut_is_not_trained_either() -> None:
    model, change = cut(driven(0.1, ratio=0.001, align=4))
    assert not change.modified
    for name, array in weights_of(network()).items():
        np.testing.assert_array_equal(weights_of(model)[name], array)


def test_without_samples_it_cuts_and_says_why_it_did_not_train() -> None:
    model = network()
    change = driven(0.1).run(model, make_context(network(), synthetic_samples(model, 4)))
    assert change.modified
    assert any(note.reason.startswith("there are no samples") for note in change.notes)
    plain = network()
    ALONE.run(plain, make_context(network(), synthetic_samples(plain, 4)))
    assert ir.to_proto(model).SerializeToString() == ir.to_proto(plain).SerializeToString()


def test_where_nothing_may_go_nothing_is_trained() -> None:
    _, change = cut(driven(0.1, exclude=("*",)))
    assert not change.modified
    assert [note.reason for note in change.notes if note.subject == "model"] == ["no group of channels can be cut"]


@pytest.mark.parametrize(("options", "said"), [({"lasso": -1.0}, "lasso is -1"), ({"lasso": 0.0}, "lasso is 0"),
                                               ({"lasso": 0.1, "exact": True}, "lasso trains")])  # fmt: skip
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOptionValue, match=said):
        Prune(**options)


def test_the_filter_of_groups_decides_what_fades() -> None:
    only = GroupLasso(0.3, lambda model, coupling: GroupFilter()(coupling)[0][:1], Session.of)
    assert len(only.norms(PADDED)) < len(LASSO.norms(PADDED))
