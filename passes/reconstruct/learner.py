"""What blocks of a quantized model learn: how to round weights, biases, and the scales of what flows between."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from onnxslim.analysis.blocks import Block
from onnxslim.arrays import Array
from onnxslim.model.constants import stored_array
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.blockwise import Claim
from onnxslim.train.block_training import BlockTask
from onnxslim.train.fake_quantization import StoredIntegers
from onnxslim.train.loop import Trained
from onnxslim.train.reconstruction import BlockReconstruction, Learned, ReconstructionSettings


class QuantizedLearner:
    """Learns what quantized blocks have.

    Args:
        stored: The integers that the model stores.
        asked: Names of those that may change.
        floats: The float form of the model.
        settings: How each block is trained.
    """

    name = "reconstruct"
    done = "reconstructed"
    teacher = "float model"

    def __init__(
        self,
        stored: Collection[StoredIntegers],
        asked: Collection[str],
        floats: ir.Model,
        settings: ReconstructionSettings,
    ) -> None:
        self._stored, self._asked, self._settings = stored, asked, settings
        self._reals: Mapping[str, Array] = {
            name: stored_array(value) for name, value in floats.graph.initializers.items()
        }
        self._taken: set[str] = set()
        self.batch = settings.batch

    def claim(self, block: Block) -> Claim:
        """Return weights, biases and scales that no block before has read."""
        stored = {
            each.integers.name or "": each
            for each in self._stored
            if each.node in block.nodes and each.integers.name not in self._taken
        }
        pairs = [node for node in block.nodes if has(node, Trait.QUANTIZES) or has(node, Trait.DEQUANTIZES)]
        of_weights = {each.node for each in self._stored}
        scales = {node.inputs[1].name or "" for node in pairs if node not in of_weights and node.inputs[1] is not None}
        scales -= self._taken
        self._taken |= {*stored, *scales}
        asked = stored.keys() & set(self._asked)
        return Claim(frozenset(asked | scales), sum(not stored[name].is_bias for name in asked))

    @staticmethod
    def progress(loss: float) -> str:
        """Return the loss in words: 1 is the error as it was."""
        return f"error {loss:.2f} of what it was"

    def train(self, part: ir.Model, base: ir.Model, claim: Claim, task: BlockTask) -> tuple[Trained, Learned]:
        """Train a block."""
        return BlockReconstruction(part, base, self._reals, claim.names).train(self._settings, task)
