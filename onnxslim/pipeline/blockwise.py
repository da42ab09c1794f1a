"""Trains the blocks of a model one after the other towards what a teacher makes, and keeps what is better."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.blocks import WHOLE, Block
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import ShapeView
from onnxslim.arrays import Array, Indices
from onnxslim.data import Samples
from onnxslim.diagnostic import Code
from onnxslim.errors import BadOptionValue, NotDifferentiable
from onnxslim.model.edit import become
from onnxslim.observe.batches import held_batches
from onnxslim.observe.deviation import Deviation
from onnxslim.observe.probe import run_on
from onnxslim.pipeline.interface import Context, Note, left_alone
from onnxslim.pipeline.opset import at_least
from onnxslim.pipeline.reasons import Reason
from onnxslim.train.block_batches import BlockValues
from onnxslim.train.block_stream import BlockStream, Counterpart, NotBySample
from onnxslim.train.block_training import BlockTask
from onnxslim.train.loop import Evaluation, Trained
from onnxslim.train.step import TRAINING_OPSET

HELD_BYTES = 1 << 30
"""Bytes of what is held of one block: what it reads, in both models, and makes; with more there are fewer samples."""
COPIES = 5
"""How often what a block reads or makes is in memory: where the streams are, and joined, in both models."""
FEWEST = 32
"""Samples, however large they are."""
EXACT = 1e-12
"""The error of a block, beside the mean square of what it makes, below which there is nothing to win."""
SIZES: Mapping[str, float] = {"layer": 0, "block": 1, "model": WHOLE}
"""How many layers a block has at least, by the words for it."""


class BlockCode(Code):
    """Why blocks stay as they are."""

    NOT_ASKED = "none of its weights is asked for"
    NO_BETTER = "its error on the samples that were set aside did not get smaller: {0}"
    NO_BETTER_OUTPUTS = "blocks are nearer to the {0}, and the outputs are not: {1}"
    DIVERGED = "the loss ran away: a smaller rate= may do"
    EXACT = "it makes what the {0} makes"
    NOT_BY_SAMPLE = "{0} has no row for each sample"
    NO_TARGET = "the {0} has no {1} of the same shape"
    NOT_FINITE = "{0} is NaN or infinite on some samples, here or in the {1}"
    NOT_DIFFERENTIABLE = "{0}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is trained of a block: what no block before it has read."""

    names: frozenset[str]
    """Names of initializers."""
    layers: int
    """How many layers these are of; 0: nothing is asked for."""


class BlockResult(Protocol):
    """What a block has learned."""

    def write(self, model: ir.Model) -> None:
        """Write it into the model that the block is of, in place."""


class BlockLearner(Protocol):
    """What blocks learn, and how."""

    @property
    def name(self) -> str:
        """The pass, for who waits."""

    @property
    def done(self) -> str:
        """What was done to a block that is better, as a word."""

    @property
    def teacher(self) -> str:
        """What the teacher is called."""

    @property
    def batch(self) -> int:
        """Samples of a step."""

    def claim(self, block: Block) -> Claim:
        """Return what is trained of the next block, in their order."""

    def progress(self, loss: float) -> str:
        """Return what to tell of a loss on what is set aside."""

    def train(self, part: ir.Model, base: ir.Model, claim: Claim, task: BlockTask) -> tuple[Trained, BlockResult]:
        """Train a block; return how it went, and what was learned.

        Args:
            part: The block as a model by itself; not changed.
            base: A copy at an operator set that is trained; of no use afterwards.
            claim: What is trained.
            task: What on.

        Raises:
            NotDifferentiable: An op of the block has no gradient.
            RunError: A step does not run.
        """


def layers_in_block(blocks: str, where: str) -> float:
    """Return how many layers a block has at least, of what the option `blocks` says.

    Args:
        blocks: A word of `SIZES`, or a number.
        where: The pass.

    Raises:
        BadOptionValue: It is neither.
    """
    if blocks in SIZES:
        return SIZES[blocks]
    if not (blocks.isdecimal() and int(blocks) > 0):
        raise BadOptionValue(f"blocks is {blocks!r}", where=where, hint=f"blocks is a number, {', '.join(SIZES)}")
    return int(blocks)


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
    """A model whose blocks are trained in order.

    Args:
        model: Changed in place.
        teacher: The model that it is to be like.
        counterpart: Finds values of the teacher.
        order: The nodes of the model, in the order of the blocks.
        blocks: Its blocks.
        samples: All are used.
        learner: What is learned.
        held_out: The share of the samples that are set aside.
        context: Of the pass.
    """

    def __init__(
        self,
        model: ir.Model,
        teacher: ir.Model,
        counterpart: Counterpart,
        order: Sequence[ir.Node],
        blocks: Sequence[Block],
        samples: Samples,
        learner: BlockLearner,
        held_out: float,
        context: Context,
    ) -> None:
        self._model, self._blocks, self._learner, self._context = model, blocks, learner, context
        batches = held_batches(model, samples)
        self._stream = BlockStream(model, teacher, counterpart, order, blocks, batches, context.open_session)
        self._least = samples.fixed_batch or 1
        self._size = next(samples.batches(learner.batch)).count  # fewer where the model takes no more at once
        count = sum(batch.count for batch in batches)
        drawn = np.random.default_rng(context.seed).permutation(count)
        units = count // self._least
        aside = min(max(1, round(units * held_out)), units - 1) * self._least
        self._positions: tuple[Indices, Indices] = np.sort(drawn[aside:]), np.sort(drawn[:aside] if aside else drawn)
        self.modified = False
        """Whether any block is better by now."""

    def train(self) -> list[Note]:
        """Train the blocks, keep those that are better, and return what became of each.

        Raises:
            RunError: A model does not run on the samples.
        """
        return [self._train(index, self._learner.claim(block)) for index, block in enumerate(self._blocks)]

    def _train(self, index: int, claim: Claim) -> Note:
        block, learner = self._blocks[index], self._learner
        subject = block.ends[0].name or ""
        try:
            values = self._stream.values(index)
        except NotBySample as error:
            return left_alone(subject, Reason(BlockCode.NOT_BY_SAMPLE, (error.value,), values=(error.value,)))
        if not claim.layers:
            return left_alone(subject, Reason(BlockCode.NOT_ASKED))
        part = _part(self._model, block)
        values = self._comparable(part, values)
        if not values.targets:
            return left_alone(subject, Reason(BlockCode.NO_TARGET, (learner.teacher, subject)))
        before = self._deviations(part, values, self._positions[1])
        known = self._deviations(part, values, self._positions[0])
        if wild := [name for name, found in {**known, **before}.items() if found.reason is not None]:
            return left_alone(subject, Reason(BlockCode.NOT_FINITE, (wild[0], learner.teacher), values=(wild[0],)))
        counts = {name: len(self._positions[0]) * math.prod(array.shape[1:]) for name, array in values.targets.items()}
        errors = {name: found.noise / counts[name] for name, found in known.items() if (found.relative or 0.0) > EXACT}
        if not errors:
            return left_alone(subject, Reason(BlockCode.EXACT, (learner.teacher,)))
        base = at_least(part.clone(), TRAINING_OPSET)
        if isinstance(base, Reason):
            return left_alone(subject, base)
        task = BlockTask(
            values,
            errors,
            self._positions,
            min(self._size, *map(len, self._positions)),
            self._context.seed,
            self._context.open_session,
            self._context.target,
            self._tell(index),
        )
        try:
            trained, learned = learner.train(part, base, claim, task)
        except NotDifferentiable as error:
            return left_alone(subject, Reason(BlockCode.NOT_DIFFERENTIABLE, (str(error),)))
        if trained.ended == "diverged":
            return left_alone(subject, Reason(BlockCode.DIVERGED))
        candidate = self._model.clone()
        learned.write(candidate)
        after = self._deviations(_part(candidate, block), values, self._positions[1])
        told = f"{_mean(before):.3g} -> {_mean(after):.3g} on {len(self._positions[1])} samples that were set aside"
        if not _mean(after) < _mean(before):
            return left_alone(subject, Reason(BlockCode.NO_BETTER, (told,)))
        become(self._model, candidate)
        self.modified = True
        what = "a layer" if claim.layers == 1 else f"{claim.layers} layers"
        return Note(subject, f"{what} {learner.done}", f"error as a share of the energy {told}")

    def _comparable(self, part: ir.Model, values: BlockValues) -> BlockValues:
        """Return values without targets of other shapes than what is made."""
        one = self._positions[1][: self._least]
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
        size = self._size
        return [positions[start : start + size] for start in range(0, len(positions), size)]

    def _tell(self, index: int) -> Callable[[int, int, Evaluation], None]:
        def tell(step: int, steps: int, last: Evaluation) -> None:
            told = self._learner.progress(last.loss)
            what = f"{self._learner.name}: block {index + 1} of {len(self._blocks)}, {told}"
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
