"""Cutting and splitting: nothing is lost, nothing is used twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim.data import Samples, open_samples
from onnxslim.errors import DataError
from onnxslim.runner.session import TensorSpec

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


def test_a_split_depends_on_the_generator_alone() -> None:
    samples = open_samples({"x": np.arange(50)}, FREE)
    assert numbers(samples.split(0.5)[0]) == numbers(samples.split(0.5)[0])
    seeded = [numbers(samples.split(0.5, np.random.default_rng(seed))[0]) for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]


def test_parts_can_be_split_and_cut_again() -> None:
    first, second = open_samples({"x": np.arange(40)}, FREE).split(0.5)
    one, two = first.split(0.5)
    assert sorted(numbers(one) + numbers(two) + numbers(second)) == list(range(40))
    assert numbers(first.take(3)) == numbers(first)[:3]
    assert first.take(100).count == 20


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_a_part_may_not_be_empty(fraction: float) -> None:
    with pytest.raises(ValueError, match="empty"):
        open_samples({"x": np.arange(4)}, FREE).split(fraction)


def test_one_sample_cannot_be_divided() -> None:
    with pytest.raises(DataError, match="1 samples cannot be divided"):
        open_samples({"x": np.arange(1)}, FREE).split(0.5)


def test_there_is_no_first_of_nothing() -> None:
    with pytest.raises(DataError, match="not a single sample"):
        open_samples({"x": np.arange(4)}, FREE).take(0).first()
