"""The values of a student and of its teacher, side by side, block after block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.blocks import Block
from onnxslim.arrays import Array
from onnxslim.data import Batch
from onnxslim.observe.stream import Stream, early_order
from onnxslim.runtime.session import OpenSession
from onnxslim.train.block_batches import BlockValues

Counterpart = Callable[[ir.Value], "ir.Value | None"]
"""Returns the value of the teacher that a value of the student stands for; None where none is known."""


class NotBySample(Exception):
    """A value that a block reads has no row for each sample."""

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value
        """Its name."""


@dataclasses.dataclass(frozen=True)
class _Names:
    """Values of a block and, where the teacher has them, the names that they have there."""

    inputs: tuple[tuple[str, str | None], ...]
    ends: tuple[tuple[str, str | None], ...]

    @property
    def taught(self) -> set[str]:
        """All that is looked at in the teacher."""
        return {name for _, name in (*self.inputs, *self.ends) if name is not None}


class BlockStream:
    """What blocks read and should make, one block after the other.

    Values of all samples are held of one place in each model, and of the block in question once more.

    Args:
        student: What is ahead may change.
        teacher: The model that it is to be like.
        counterpart: Finds values of the teacher.
        order: The nodes of the student, as blocks have them.
        blocks: In this order.
        batches: The samples.
        open_session: Opens a model on the target.
    """

    def __init__(
        self,
        student: ir.Model,
        teacher: ir.Model,
        counterpart: Counterpart,
        order: Sequence[ir.Node],
        blocks: Sequence[Block],
        batches: Sequence[Batch],
        open_session: OpenSession,
    ) -> None:
        def pairs(values: Sequence[ir.Value]) -> tuple[tuple[str, str | None], ...]:
            found = [(value.name or "", counterpart(value)) for value in values]
            return tuple((name, None if value is None else value.name) for name, value in found)

        self._blocks = [_Names(pairs(block.inputs), pairs(block.ends)) for block in blocks]
        self._stops = [block.stop for block in blocks]
        self._now = Stream(student, batches, open_session, order)
        self._then = Stream(teacher, batches, open_session, early_order(teacher.graph))
        self._place = 0
        self._places = {value.name: place for place, node in enumerate(self._then.order) for value in node.outputs}

    def values(self, index: int) -> BlockValues:
        """Return the values of a block; both models are run up to it.

        Raises:
            NotBySample: See there.
            RunError: A model does not run on the samples.
        """
        if index:
            self._now.advance(self._stops[index - 1])
        names = self._blocks[index]
        needed = set[str]().union(*(block.taught for block in self._blocks[index:]))
        self._place = max(self._place, *(self._places.get(name, -1) + 1 for name in names.taught), 0)
        self._then.advance(self._place, needed)
        inputs: dict[str, Array] = {}
        originals: dict[str, Array] = {}
        for name, taught in names.inputs:
            found = _joined(self._now, name)
            if found is None:
                raise NotBySample(name)
            inputs[name] = found
            original = None if taught is None else _joined(self._then, taught)
            if original is not None and original.shape == found.shape and original.dtype == found.dtype == np.float32:
                originals[name] = original
        joined = {name: _joined(self._then, taught) for name, taught in names.ends if taught is not None}
        targets = {name: array for name, array in joined.items() if array is not None and array.dtype == np.float32}
        return BlockValues(inputs, originals, targets)


def _joined(stream: Stream, name: str) -> Array | None:
    """Return a value of all samples; None where its first axis is not theirs."""
    arrays = stream[name]
    by_sample = all(array.shape[:1] == (count,) for array, count in zip(arrays, stream.counts, strict=True))
    if not by_sample or len({array.shape[1:] for array in arrays}) > 1:
        return None
    return np.concatenate(arrays)
