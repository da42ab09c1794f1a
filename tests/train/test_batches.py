"""Batches are shuffled anew in each epoch, hold each sample once, and are the same from any step on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sample_models import from_text
from train_models import mlp, samples

from onnxslim.data import open_samples
from onnxslim.errors import DataError
from onnxslim.runtime.session import Session
from onnxslim.train.batches import ShuffledBatches, in_order
from onnxslim.train.teacher import Teacher


def test_an_epoch_holds_each_sample_once_in_another_order_than_the_next() -> None:
    given = samples(40)
    batches = list(itertools.islice(ShuffledBatches(given, 8, 3).starting(0), 10))
    one, other = (np.concatenate([b.positions for b in part]) for part in (batches[:5], batches[5:]))
    assert sorted(one) == sorted(other) == list(range(40))
    assert not np.array_equal(one, other)
    everything = given.first(40)["x"]
    for batch in batches:
        np.testing.assert_array_equal(batch.feeds["x"], everything[batch.positions])


@pytest.mark.parametrize("step", [1, 4, 5, 7])
def test_what_goes_on_from_a_step_is_what_would_have_come(step: int) -> None:
    shuffled = ShuffledBatches(samples(40), 8, 3, lambda feeds, random: {"x": feeds["x"] + random.random()})
    whole = list(itertools.islice(shuffled.starting(0), 10))
    for one, other in zip(whole[step:], shuffled.starting(step), strict=False):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.feeds["x"], other.feeds["x"])


def test_too_few_samples_are_told() -> None:
    with pytest.raises(DataError, match="5 samples do not fill a batch of 8") as caught:
        ShuffledBatches(samples(5), 8, 0)
    assert caught.value.hint


def test_a_teacher_runs_once_for_each_sample_where_inputs_stay() -> None:
    session = Session.of(mlp())
    run = session.run
    count = 0

    def counted(*arguments: object, **named: object) -> object:
        nonlocal count
        count += 1
        return run(*arguments, **named)  # type: ignore[arg-type]

    session.run = counted  # type: ignore[method-assign,assignment]
    given = samples(32)
    teacher = Teacher(session, {"teacher.y": "y"}, given.count, cached=True)
    for batch in itertools.islice(ShuffledBatches(given, 8, 0).starting(0), 12):
        np.testing.assert_allclose(teacher(batch)["teacher.y"], run(batch.feeds)["y"], rtol=1e-6)
    assert count == 4
    anew = Teacher(session, {"teacher.y": "y"}, given.count, cached=False)
    for batch in in_order(given, 8):
        anew(batch)
        anew(batch)
    assert count == 12


def test_labels_are_targets_as_they_are() -> None:
    x, labels = np.zeros((8, 4), np.float32), np.arange(8)
    given = open_samples({"x": x, "labels": labels}, Session.of(mlp()).inputs)
    (batch,) = in_order(given, 8)
    np.testing.assert_array_equal(Teacher(None, {}, 8, cached=True)(batch)["labels"], labels)


def test_outputs_whose_rows_may_be_no_samples_are_not_kept() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,8] x) => (float[8,N] y) { y = Transpose (x) }'
    session = Session.of(from_text(text))
    x = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    given = open_samples({"x": x}, session.inputs)
    teacher = Teacher(session, {"teacher.y": "y"}, given.count, cached=True)
    for batch in itertools.islice(ShuffledBatches(given, 8, 0).starting(0), 8):
        np.testing.assert_array_equal(teacher(batch)["teacher.y"], batch.feeds["x"].T)
