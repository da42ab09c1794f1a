"""The batches that a block of a model is trained on: held in memory, with inputs of the original mixed in at random.

What a block reads is what the blocks before it give by now. Where single elements of that are those of the original
instead, what is learned does not lean on errors of these samples, and holds for others as well. The share of such
elements falls to 0 on the way: biases would otherwise fit a mean of inputs that the model never sees.

Source: Wei et al., "QDrop: Randomly dropping quantization for extremely low-bit post-training quantization" (ICLR
2022), equation 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from onnxslim.arrays import Array, Indices
from onnxslim.train.batches import TrainingBatch


@dataclasses.dataclass(frozen=True)
class BlockValues:
    """What a block reads, and what it should make, for all samples: the first axis is theirs."""

    inputs: Mapping[str, Array]
    """What it reads of the model as it is by now."""
    originals: Mapping[str, Array]
    """What it reads in the original, as far as that has it."""
    targets: Mapping[str, Array]
    """What it makes in the original, by the names of its ends."""

    def batch(self, positions: Indices) -> TrainingBatch:
        """Return some samples as they are."""
        return TrainingBatch({name: array[positions] for name, array in self.inputs.items()}, positions, None)

    def batches(self, positions: Indices, size: int) -> list[TrainingBatch]:
        """Return samples in batches of one size; those that do not fill one are left out."""
        starts = range(0, len(positions) - size + 1, size)
        return [self.batch(positions[start : start + size]) for start in starts]


@dataclasses.dataclass(frozen=True)
class BlockBatches:
    """Samples of a block in random order, epoch after epoch, without end."""

    values: BlockValues
    positions: Indices
    """The samples that are trained on."""
    size: int
    seed: int
    mixed: Callable[[int], float]
    """The share of the elements of an input that are those of the original, at each step."""
    scalars: Callable[[int], Mapping[str, Array]] = lambda step: {}
    """Other inputs of a step."""

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.positions)

    def starting(self, step: int) -> Iterator[TrainingBatch]:
        """Yield the batches from a step on."""
        per_epoch = self.count // self.size
        while True:
            epoch, place = divmod(step, per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.positions)
            batch = self.values.batch(order[place * self.size : (place + 1) * self.size])
            yield dataclasses.replace(batch, feeds={**self._mixed(batch, step), **self.scalars(step)})
            step += 1

    def _mixed(self, batch: TrainingBatch, step: int) -> Mapping[str, Array]:
        share = self.mixed(step)
        if share <= 0:
            return batch.feeds
        generator = np.random.default_rng([self.seed, 1, step])
        feeds = dict(batch.feeds)
        for name, array in self.values.originals.items():
            chosen = generator.random(feeds[name].shape, np.float32) < share
            feeds[name] = np.where(chosen, array[batch.positions], feeds[name])
        return feeds
