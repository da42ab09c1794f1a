"""Reconstructs the blocks of a quantized model one after the other, and keeps what is better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.blocks import Block
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import ShapeView
from onnxslim.arrays import Array, Indices
from onnxslim.data import Samples
from onnxslim.errors import NotDifferentiable
from onnxslim.model.edit import become
from onnxslim.observe.batches import held_batches
from onnxslim.observe.deviation import Deviation
from onnxslim.observe.probe import run_on
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.interface import Context, Note, left_alone
from onnxslim.pipeline.opset import at_least
from onnxslim.pipeline.reasons import Reason
from onnxslim.train.block_batches import BlockValues
from onnxslim.train.fake_quantization import StoredIntegers, stored_integers
from onnxslim.train.loop import Evaluation
from onnxslim.train.reconstruction import BlockReconstruction, ReconstructionSettings
from onnxslim.train.step import TRAINING_OPSET

from .codes import ReconstructCode
from .stream import BlockStream

HELD_BYTES = 1 << 30
"""Bytes of what is held of one block: what it reads, in both models, and makes; with more there are fewer samples."""
COPIES = 5
"""How often what a block reads or makes is in memory: where the streams are, and joined, in both models."""
FEWEST = 32
"""Samples, however large they are."""
EXACT = 1e-12
"""The error of a block, beside the mean square of what it makes, below which there is nothing to win."""


def capacity(blocks: Sequence[Block], view: ShapeView) -> int:
    """Return how many samples of all blocks fit into memory.

    Args:
        blocks: Of a model.
        view: Its shapes at one sample.
    """
    sizes = [
        sum(4 * math.prod(size or 1 for size in view.shape(value) or ()) for value in (*block.inputs, *block.ends))
        for block in blocks
    ]
    return max(FEWEST, HELD_BYTES // (COPIES * max(*sizes, 1)))


class Blockwise:
    """A quantized model whose blocks are reconstructed in order.

    Args:
        model: Changed in place.
        floats: Its float form.
        order: The nodes of the model, in the order of the blocks.
        blocks: Its blocks.
        samples: All are used.
        settings: How each block is trained.
        held_out: The share of the samples that are set aside.
        context: Of the pass.
    """

    def __init__(
        self,
        model: ir.Model,
        floats: ir.Model,
        order: Sequence[ir.Node],
        blocks: Sequence[Block],
        samples: Samples,
        settings: ReconstructionSettings,
        held_out: float,
        context: Context,
    ) -> None:
        self._model, self._blocks, self._settings, self._context = model, blocks, settings, context
        batches = held_batches(model, samples)
        self._stream = BlockStream(model, floats, order, blocks, batches, context.open_session)
        count = sum(batch.count for batch in batches)
        drawn = np.random.default_rng(context.seed).permutation(count)
        aside = min(max(1, round(count * held_out)), count - 1)
        self._positions: tuple[Indices, Indices] = np.sort(drawn[aside:]), np.sort(drawn[:aside])
        self._stored = list(stored_integers(model.graph))
        self._taken: set[str] = set()
        self.modified = False
        """Whether any block is better by now."""

    def reconstruct(self, index: int, asked: Collection[str], reals: Mapping[str, Array]) -> Note:
        """Reconstruct a block, keep it where it is better, and return what became of it.

        Args:
            index: Of the block; those before it have been reconstructed.
            asked: Names of the stored integers that may change.
            reals: The real numbers that integers stand for, by their names.

        Raises:
            RunError: A model does not run on the samples.
        """
        block = self._blocks[index]
        subject = block.ends[0].name or ""
        stored, scales = self._trained(block)
        values = self._stream.values(index)
        if isinstance(values, Reason):
            return left_alone(subject, values)
        if not any(not each.is_bias and each.integers.name in asked for each in stored):
            return left_alone(subject, Reason(ReconstructCode.NOT_ASKED))
        part = _part(self._model, block)
        values = self._comparable(part, values)
        if not values.targets:
            return left_alone(subject, Reason(ReconstructCode.NO_TARGET, (subject,)))
        before = self._deviations(part, values, self._positions[1])
        known = self._deviations(part, values, self._positions[0])
        counts = {name: len(self._positions[0]) * math.prod(array.shape[1:]) for name, array in values.targets.items()}
        errors = {name: found.noise / counts[name] for name, found in known.items() if (found.relative or 0.0) > EXACT}
        if not errors:
            return left_alone(subject, Reason(ReconstructCode.EXACT))
        base = at_least(part.clone(), TRAINING_OPSET)
        if isinstance(base, Reason):
            return left_alone(subject, base)
        names = {each.integers.name or "" for each in stored} & set(asked) | scales
        try:
            work = BlockReconstruction(part, base, reals, names, values)
            trained, learned = work.train(
                self._settings,
                errors,
                self._positions,
                self._context.seed,
                self._context.open_session,
                self._context.target,
                self._tell(index),
            )
        except NotDifferentiable as error:
            return left_alone(subject, Reason(ReconstructCode.NOT_DIFFERENTIABLE, (str(error),)))
        if trained.ended == "diverged":
            return left_alone(subject, Reason(ReconstructCode.DIVERGED))
        candidate = self._model.clone()
        learned.write(candidate)
        after = self._deviations(_part(candidate, block), values, self._positions[1])
        told = f"{_mean(before):.3g} -> {_mean(after):.3g} on {len(self._positions[1])} samples that were set aside"
        if not _mean(after) < _mean(before):
            return left_alone(subject, Reason(ReconstructCode.NO_BETTER, (told,)))
        become(self._model, candidate)
        self.modified = True
        weights = sum(not each.is_bias and each.integers.name in asked for each in stored)
        what = "a layer" if weights == 1 else f"{weights} layers"
        return Note(subject, f"{what} reconstructed", f"error as a share of the energy {told}")

    def _trained(self, block: Block) -> tuple[list[StoredIntegers], set[str]]:
        """Return the weights and biases that a block is the first to read, and the names of its scales."""
        found = [each for each in self._stored if each.node in block.nodes and each.integers.name not in self._taken]
        pairs = [node for node in block.nodes if has(node, Trait.QUANTIZES) or has(node, Trait.DEQUANTIZES)]
        of_weights = {each.node for each in self._stored}
        scales = {node.inputs[1].name or "" for node in pairs if node not in of_weights and node.inputs[1] is not None}
        scales -= self._taken
        self._taken |= {each.integers.name or "" for each in found} | scales
        return found, scales

    def _comparable(self, part: ir.Model, values: BlockValues) -> BlockValues:
        """Return values without targets of other shapes than what is made."""
        one = self._positions[1][:1]
        made = next(self._made(part, values, one))
        alike = {name: array for name, array in values.targets.items() if made[name].shape == array[one].shape}
        return dataclasses.replace(values, targets=alike)

    def _deviations(self, part: ir.Model, values: BlockValues, positions: Indices) -> dict[str, Deviation]:
        """Return how far what a block makes is from what it should make."""
        found = {name: Deviation() for name in values.targets}
        for batch, made in zip(self._pieces(positions), self._made(part, values, positions), strict=True):
            for name, deviation in found.items():
                deviation.add(values.targets[name][batch], made[name])
        return found

    def _made(self, part: ir.Model, values: BlockValues, positions: Indices) -> Iterator[Mapping[str, Array]]:
        session = self._context.open_session(part)
        for batch in self._pieces(positions):
            yield run_on(session, values.batch(batch).feeds)

    def _pieces(self, positions: Indices) -> list[Indices]:
        size = self._settings.batch
        return [positions[start : start + size] for start in range(0, len(positions), size)]

    def _tell(self, index: int) -> Callable[[int, int, Evaluation], None]:
        def tell(step: int, steps: int, last: Evaluation) -> None:
            what = f"reconstruct: block {index + 1} of {len(self._blocks)}, error {last.loss:.2f} of what it was"
            self._context.progress(what, index * steps + step, len(self._blocks) * steps)

        return tell


def _part(model: ir.Model, block: Block) -> ir.Model:
    """Return a block of a model as a model by itself."""
    names = [[value.name or "" for value in values] for values in (block.inputs, block.ends)]
    graph = ir.convenience.extract(model.graph, *names)
    part = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    infer_shapes(part)
    return part


def _mean(deviations: Mapping[str, Deviation]) -> float:
    """Return the error of all ends together, as a share of their energy."""
    found = [deviation.relative for deviation in deviations.values()]
    return float(np.mean([np.inf if each is None else each for each in found]))
