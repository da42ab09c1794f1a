"""The batches of a training: shuffled anew in each epoch, the same for the same seed, from any step on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np

from onnxslim.arrays import Array, Indices
from onnxslim.data import Batch, Samples
from onnxslim.errors import DataError

LABELS = "labels"
"""The target that holds labels, as a batch gives them."""
Augment = Callable[[Mapping[str, Array], np.random.Generator], Mapping[str, Array]]
"""Makes other inputs of those of a batch."""


@dataclasses.dataclass(frozen=True)
class TrainingBatch:
    """What a step is fed with, weights and scalars left out."""

    feeds: Mapping[str, Array]
    """The inputs of the student."""
    positions: Indices
    """The samples, by their places."""
    labels: Array | None


class TrainingBatches(Protocol):
    """The batches of a training, without end, and the same for the same seed."""

    @property
    def size(self) -> int:
        """Samples of a batch."""

    @property
    def seed(self) -> int:
        """What decides their order."""

    @property
    def count(self) -> int:
        """How many samples there are."""

    def starting(self, step: int) -> Iterator[TrainingBatch]:
        """Yield the batches from a step on."""


@dataclasses.dataclass(frozen=True)
class ShuffledBatches:
    """All samples in random order, epoch after epoch."""

    samples: Samples
    size: int
    """Samples of a batch; those that do not fill one are left out of an epoch."""
    seed: int
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if self.per_epoch < 1:
            raise DataError(
                f"{self.samples.count} samples do not fill a batch of {self.size}",
                where=self.samples.source,
                hint="give more samples, or a smaller batch",
            )

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self.samples.count

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.samples.count // self.size

    def starting(self, step: int) -> Iterator[TrainingBatch]:
        """Yield the batches from a step on, without end.

        Raises:
            DataError: A sample cannot be read, or the samples are of several shapes.
        """
        epoch, first = divmod(step, self.per_epoch)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.samples.count)
            order = order[first * self.size : self.per_epoch * self.size]
            for number, batch in enumerate(self.samples.take(order).batches(self.size)):
                if batch.count != self.size:
                    raise several_shapes(self.samples.source)
                positions = order[number * self.size : (number + 1) * self.size]
                place = epoch * self.per_epoch + first + number
                yield TrainingBatch(self._augmented(batch, place), positions, batch.labels)
            epoch, first = epoch + 1, 0

    def _augmented(self, batch: Batch, step: int) -> Mapping[str, Array]:
        if self.augment is None:
            return batch.feeds
        return self.augment(batch.feeds, np.random.default_rng([self.seed, 1, step]))


def in_order(samples: Samples, size: int) -> Iterator[TrainingBatch]:
    """Yield whole batches of samples in their order, for an evaluation."""
    place = 0
    for batch in samples.batches(size):
        positions = np.arange(place, place + batch.count)
        place += batch.count
        if batch.count == size:
            yield TrainingBatch(batch.feeds, positions, batch.labels)


def several_shapes(source: str) -> DataError:
    """Return the error that samples are not all of one shape."""
    what = "the samples are of several shapes, and a step is compiled for one"
    return DataError(what, where=source, hint="bring them to one shape")
