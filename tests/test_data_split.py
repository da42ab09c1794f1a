"""Cutting and splitting: nothing is lost, nothing is used twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.data import Samples, open_samples
from onnxslim.errors import DataError
from onnxslim.runtime.session import TensorSpec

FREE = (TensorSpec("x", np.dtype(np.int64), ("N",)),)
BY_THREE = (TensorSpec("x", np.dtype(np.int64), (3,)),)


def numbers(samples: Samples, size: int | None = None) -> list[int]:
    return [int(number) for batch in samples.batches(size) for number in batch.feeds["x"]]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 3), st.integers(1, 7), st.booleans())
def test_a_split_is_a_partition(count: int, fraction: float, seed: int, size: int, fixed: bool) -> None:
    samples = open_samples({"x": np.arange(count * 3)}, BY_THREE if fixed else FREE)
    first, second = samples.split(fraction, np.random.default_rng(seed))
    one, two = numbers(first, size), numbers(second, size)
    assert sorted(one + two) == list(range(count * 3))
    assert (len(one), len(two)) == (first.count, second.count)
    assert min(len(one), len(two)) > 0
    assert abs(len(one) - fraction * count * 3) <= 3
    assert one == sorted(one)
    assert two == sorted(two)


def test_a_split_depends_on_the_generator_alone() -> None:
    samples = open_samples({"x": np.arange(50)}, FREE)
    assert numbers(samples.split(0.5)[0]) == numbers(samples.split(0.5)[0])
    seeded = [numbers(samples.split(0.5, np.random.default_rng(seed))[0]) for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]


def test_parts_can_be_split_and_cut_again() -> None:
    first, second = open_samples({"x": np.arange(40)}, FREE).split(0.5)
    one, two = first.split(0.5)
    assert sorted(numbers(one) + numbers(two) + numbers(second)) == list(range(40))
    drawn = numbers(first.draw(3))
    assert len(drawn) == 3
    assert set(drawn) < set(numbers(first))
    assert sorted(numbers(first.draw(100))) == numbers(first)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 3), st.integers(1, 7), st.booleans())
def test_a_draw_takes_one_of_each_stretch_of_the_source(
    stretches: int, length: int, seed: int, size: int, fixed: bool
) -> None:
    unit = 3 if fixed else 1
    samples = open_samples({"x": np.arange(stretches * unit * length)}, BY_THREE if fixed else FREE)
    drawn = numbers(samples.draw(stretches * unit, np.random.default_rng(seed)), size)
    assert sorted(number // length for number in drawn) == list(range(stretches * unit))
    assert drawn == numbers(samples.draw(stretches * unit, np.random.default_rng(seed)), unit)


def test_a_draw_depends_on_the_generator_alone_and_mixes_the_order() -> None:
    samples = open_samples({"x": np.arange(1000)}, FREE)
    seeded = [numbers(samples.draw(64, np.random.default_rng(seed))) for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]
    assert all(len(set(np.array(numbers).reshape(4, 16)[0] // 250)) == 4 for numbers in seeded)


def test_every_sample_is_drawn_about_as_often() -> None:
    samples = open_samples({"x": np.arange(10)}, FREE)
    drawn = [number for seed in range(600) for number in numbers(samples.draw(3, np.random.default_rng(seed)))]
    assert np.abs(np.bincount(drawn) / 600 - 0.3).max() < 0.08


def test_both_parts_of_a_split_hold_every_class_of_sorted_data() -> None:
    first, second = open_samples({"x": np.repeat(np.arange(10), 32)}, FREE).split(0.75)
    assert np.bincount(numbers(first)).tolist() == [24] * 10
    assert np.bincount(numbers(second)).tolist() == [8] * 10


def test_files_that_are_read_whole_are_opened_once_for_a_draw(tmp_path, monkeypatch) -> None:
    for at in range(5):
        np.savez_compressed(tmp_path / f"{at}.npz", x=np.arange(at * 4, at * 4 + 4, dtype=np.int64))
    samples = open_samples(tmp_path, FREE)
    loads = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *args, **options: loads.append(1) or load(*args, **options))
    drawn = numbers(samples.draw(15), 4)
    assert len(loads) == 5
    assert len(set(drawn)) == 15
    assert drawn != sorted(drawn)


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_a_part_may_not_be_empty(fraction: float) -> None:
    with pytest.raises(ValueError, match="empty"):
        open_samples({"x": np.arange(4)}, FREE).split(fraction)


def test_one_sample_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="1 samples cannot be divided"):
        open_samples({"x": np.arange(1)}, FREE).split(0.5)


def test_there_is_no_first_of_nothing() -> None:
    with pytest.raises(DataError, match="not a single sample"):
        open_samples({"x": np.arange(4)}, FREE).draw(0).first()
