"""Batches of a block: the same for the same seed, from any step on; a share of the inputs is the original's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim.train.block_batches import BlockBatches, BlockValues

COUNT = 12
VALUES = BlockValues(
    {"a": np.arange(COUNT, dtype=np.float32)[:, None] + np.zeros((COUNT, 500), np.float32), "m": np.arange(COUNT)},
    {"a": -1 - np.arange(COUNT, dtype=np.float32)[:, None] + np.zeros((COUNT, 500), np.float32)},
    {"y": np.arange(COUNT, dtype=np.float32)},
)


def batches(mixed: float = 0.0) -> BlockBatches:
    return BlockBatches(VALUES, np.arange(2, COUNT), 4, 5, lambda step: mixed, lambda step: {"beta": np.float32(step)})


def test_an_epoch_holds_no_sample_twice_and_none_that_is_set_aside() -> None:
    first = [batch.positions for batch in itertools.islice(batches().starting(0), 2)]
    assert len({*np.concatenate(first)}) == 8
    assert min(map(min, first)) >= 2


def test_they_go_on_from_any_step() -> None:
    whole = list(itertools.islice(batches(0.5).starting(0), 7))
    rest = list(itertools.islice(batches(0.5).starting(3), 4))
    for one, other in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        for name, array in one.feeds.items():
            np.testing.assert_array_equal(array, other.feeds[name])
    assert [float(batch.feeds["beta"]) for batch in whole] == list(range(7))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_elements_is_that_of_the_original(share: float) -> None:
    batch = next(batches(share).starting(0))
    taken = batch.feeds["a"] < 0
    assert float(taken.mean()) == pytest.approx(share, abs=0.05)
    rows = batch.positions[:, None]
    np.testing.assert_array_equal(batch.feeds["a"], np.where(taken, -1 - rows, rows))
    np.testing.assert_array_equal(batch.feeds["m"], batch.positions)


def test_batches_in_order_are_whole() -> None:
    found = VALUES.batches(np.array([1, 5, 7]), 2)
    assert [batch.positions.tolist() for batch in found] == [[1, 5]]
