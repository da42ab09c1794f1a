"""The values of a quantized model and of its float form, side by side, block after block."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.blocks import Block
from onnxslim.arrays import Array
from onnxslim.data import Batch
from onnxslim.observe.stream import Stream, early_order
from onnxslim.pipeline.reasons import Reason
from onnxslim.runtime.session import OpenSession
from onnxslim.train.block_batches import BlockValues

from .codes import ReconstructCode
from .counterparts import Counterparts


@dataclasses.dataclass(frozen=True)
class _Names:
    """Values of a block and, where the float form has them, the names that they have there."""

    inputs: tuple[tuple[str, str | None], ...]
    ends: tuple[tuple[str, str | None], ...]

    @property
    def floats(self) -> set[str]:
        """All that is looked at in the float form."""
        return {name for _, name in (*self.inputs, *self.ends) if name is not None}


class BlockStream:
    """What blocks read and should make, one block after the other.

    Values of all samples are held of one place in each model, and of the block in question once more.

    Args:
        model: The quantized model; what is ahead may change.
        floats: Its float form.
        order: The nodes of the model, as blocks have them.
        blocks: In this order.
        batches: The samples.
        open_session: Opens a model on the target.
    """

    def __init__(
        self,
        model: ir.Model,
        floats: ir.Model,
        order: Sequence[ir.Node],
        blocks: Sequence[Block],
        batches: Sequence[Batch],
        open_session: OpenSession,
    ) -> None:
        counterparts = Counterparts(model, floats)

        def pairs(values: Sequence[ir.Value]) -> tuple[tuple[str, str | None], ...]:
            found = [(value.name or "", counterparts.of(value)) for value in values]
            return tuple((name, None if value is None else value.name) for name, value in found)

        self._blocks = [_Names(pairs(block.inputs), pairs(block.ends)) for block in blocks]
        self._stops = [block.stop for block in blocks]
        self._now = Stream(model, batches, open_session, order)
        self._then = Stream(floats, batches, open_session, early_order(floats.graph))
        self._place = 0
        self._places = {value.name: place for place, node in enumerate(self._then.order) for value in node.outputs}

    def values(self, index: int) -> BlockValues | Reason:
        """Return the values of a block, or why it has none of the kind that is needed; both models are run up to it.

        Raises:
            RunError: A model does not run on the samples.
        """
        if index:
            self._now.advance(self._stops[index - 1])
        names = self._blocks[index]
        needed = set[str]().union(*(block.floats for block in self._blocks[index:]))
        self._place = max(self._place, *(self._places.get(name, -1) + 1 for name in names.floats), 0)
        self._then.advance(self._place, needed)
        inputs: dict[str, Array] = {}
        originals: dict[str, Array] = {}
        for name, other in names.inputs:
            found = _joined(self._now, name)
            if found is None:
                return Reason(ReconstructCode.NOT_BY_SAMPLE, (name,), values=(name,))
            inputs[name] = found
            original = None if other is None else _joined(self._then, other)
            if original is not None and original.shape == found.shape and original.dtype == found.dtype == np.float32:
                originals[name] = original
        joined = {name: _joined(self._then, other) for name, other in names.ends if other is not None}
        targets = {name: array for name, array in joined.items() if array is not None and array.dtype == np.float32}
        return BlockValues(inputs, originals, targets)


def _joined(stream: Stream, name: str) -> Array | None:
    """Return a value of all samples; None where its first axis is not theirs."""
    arrays = stream[name]
    by_sample = all(array.shape[:1] == (count,) for array, count in zip(arrays, stream.counts, strict=True))
    if not by_sample or len({array.shape[1:] for array in arrays}) > 1:
        return None
    return np.concatenate(arrays)
