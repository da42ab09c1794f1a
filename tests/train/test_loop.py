"""The loop: the best weights are kept, a training ends where it does not help, and goes on where it was killed."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from sample_models import from_text
from train_models import mlp, train_mlp, weights_of

from onnxslim.errors import DataError, UsageError, ValuesNotFinite
from onnxslim.runtime.session import Session
from onnxslim.train.batches import LABELS, TrainingBatch
from onnxslim.train.loop import Evaluation, Keep, RunnableStep
from onnxslim.train.losses import LossKind, LossTerm
from onnxslim.train.optimizer import OptimizerKind
from onnxslim.train.step import compile_step
from onnxslim.train.teacher import Teacher


def test_a_student_learns_what_its_teacher_does_on_samples_that_it_has_not_seen() -> None:
    trained, first = train_mlp(240)
    assert trained.helped
    assert trained.ended == "all steps"
    assert trained.best.loss < 0.2 * trained.evaluations[0].loss
    assert trained.best.loss == min(evaluation.loss for evaluation in trained.evaluations)
    assert any((trained.weights[name] != array).any() for name, array in first.items())


def test_a_training_is_repeatable() -> None:
    (one, _), (other, _) = train_mlp(24), train_mlp(24)
    for name, array in one.weights.items():
        assert array.tobytes() == other.weights[name].tobytes()


def test_weights_that_nothing_betters_stay() -> None:
    trained, first = train_mlp(student=mlp(0), patience=2)
    assert not trained.helped
    assert trained.ended == "no better"
    assert trained.steps == 24
    for name, array in trained.weights.items():
        np.testing.assert_array_equal(array, first[name])


def test_the_last_weights_are_kept_where_they_are_asked_for_though_none_was_better() -> None:
    best, _ = train_mlp(rate=3.0)
    last, first = train_mlp(rate=3.0, keep=Keep.LAST)
    assert not best.helped
    assert last.helped
    assert last.best == last.evaluations[-1] == best.evaluations[-1]
    assert last.best.step == last.steps == 60
    assert last.best.loss > last.evaluations[0].loss
    assert any((last.weights[name] != array).any() for name, array in first.items())


def test_a_loss_that_runs_away_ends_it_and_harms_nothing() -> None:
    trained, first = train_mlp(rate=1e18, kind=OptimizerKind.SGD)
    assert trained.ended == "diverged"
    assert trained.steps < 60
    for name, array in trained.weights.items():
        np.testing.assert_array_equal(array, first[name])


@pytest.mark.parametrize(("place", "said"), [("held out", "before the first step"), ("trained on", "of a batch")])
def test_samples_that_are_not_finite_are_told_from_a_loss_that_runs_away(place: str, said: str) -> None:
    with pytest.raises(ValuesNotFinite, match=f"the loss is not finite {said}"):
        train_mlp(not_finite=place)


def test_time_that_is_up_ends_it_with_an_evaluation() -> None:
    trained, _ = train_mlp(seconds=0.0)
    assert trained.ended == "time"
    assert (trained.steps, trained.evaluations[-1].step) == (1, 1)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [5, 12, 30])
def test_what_was_killed_goes_on_and_ends_byte_for_byte_as_it_would_have(at: int, tmp_path: pathlib.Path) -> None:
    def kill(step: int, steps: int, evaluation: Evaluation) -> None:
        if step == at:
            raise Killed

    path = tmp_path / "distill.ckpt"
    whole, _ = train_mlp(48)
    with pytest.raises(Killed):
        train_mlp(48, checkpoint=path, tell=kill)
    seen: list[int] = []
    resumed, _ = train_mlp(48, checkpoint=path, tell=lambda step, steps, evaluation: seen.append(step))
    assert seen[0] == at // 12 * 12 + 1
    assert resumed.evaluations[-1] == whole.evaluations[-1]
    for name, array in whole.weights.items():
        assert array.tobytes() == resumed.weights[name].tobytes()
    again, _ = train_mlp(48, checkpoint=path)
    assert again.steps == 48
    assert all(again.weights[name].tobytes() == array.tobytes() for name, array in whole.weights.items())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "distill.ckpt"
    train_mlp(12, checkpoint=path)
    for changed in ({"rate": 0.03}, {"kind": OptimizerKind.SGD}):
        with pytest.raises(UsageError, match="another training") as caught:
            train_mlp(12, checkpoint=path, **changed)  # type: ignore[arg-type]
        assert caught.value.hint
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UsageError, match="no checkpoint"):
        train_mlp(12, checkpoint=path)


def test_nothing_is_trained_in_place() -> None:
    student = mlp(1)
    before = {name: array.copy() for name, array in weights_of(student).items()}
    train_mlp(12, student=student)
    for name, array in weights_of(student).items():
        np.testing.assert_array_equal(array, before[name])


def test_another_student_of_the_same_training_begins_anew(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "distill.ckpt"
    train_mlp(12, checkpoint=path)
    seen: list[int] = []
    other, _ = train_mlp(12, checkpoint=path, student=mlp(2), tell=lambda step, steps, evaluation: seen.append(step))
    assert seen[0] == 1
    alone, _ = train_mlp(12, student=mlp(2))
    assert all(other.weights[name].tobytes() == array.tobytes() for name, array in alone.weights.items())


def test_labels_are_taken_in_any_integer_type_and_nothing_else_is() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[4,3] x) => (float[4,3] y) { y = Mul (x, w) }'
    term = LossTerm(LossKind.CROSS_ENTROPY, "y", LABELS)
    step = compile_step(from_text(text, w=np.ones(3, np.float32)), {}, ["w"], [term], None)
    runnable = RunnableStep(step, Session.of(step.model), Teacher(None, {}, 4, cached=False))
    feeds, places = {"x": np.zeros((4, 3), np.float32)}, np.arange(4)
    for given in (np.arange(4, dtype=np.uint8), np.arange(4, dtype=np.int32)[:, None]):
        found = runnable.feeds(TrainingBatch(feeds, places, given))[step.targets[LABELS]]
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, np.arange(4))
    for wrong in (np.zeros(4), np.eye(4, 3, dtype=int), np.zeros(8, int), np.array(list("abcd"))):
        with pytest.raises(DataError, match="no classes of") as caught:
            runnable.feeds(TrainingBatch(feeds, places, wrong))
        assert caught.value.hint
