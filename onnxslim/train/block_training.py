"""The training of one block: towards what its teacher makes there, kept where it does best on samples set aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxslim.arrays import Array, Indices
from onnxslim.model.constants import stored_array
from onnxslim.runtime.session import OpenSession
from onnxslim.runtime.target import Target
from onnxslim.train.batches import TrainingBatch
from onnxslim.train.block_batches import BlockBatches, BlockValues
from onnxslim.train.loop import Course, RunnableStep, Tell, Trained, train
from onnxslim.train.losses import LossKind, LossTerm
from onnxslim.train.step import TrainingStep, compile_step
from onnxslim.train.terms import target_of


@dataclasses.dataclass(frozen=True)
class BlockTask:
    """What one block learns, and on what."""

    values: BlockValues
    """What it reads and should make, for all samples."""
    errors: Mapping[str, float]
    """The mean squared error of each end that it is trained by, as it was."""
    positions: tuple[Indices, Indices]
    """The samples to train on, and those that are set aside."""
    batch: int
    """Samples of a step."""
    seed: int
    """Decides the order of samples, and what is mixed."""
    open_session: OpenSession
    """Opens a step on the target."""
    target: Target
    tell: Tell = lambda step, steps, evaluation: None
    """Told of each step."""

    def train(
        self,
        forms: tuple[ir.Model, ir.Model],
        names: Sequence[str],
        variances: Mapping[str, float],
        course: Course,
        *,
        more: Sequence[LossTerm] = (),
        masks: Mapping[str, Array] | None = None,
        rates: Mapping[str, float] | None = None,
        mixed: Callable[[int], float] = lambda step: 0.0,
        scalars: Callable[[int], Mapping[str, Array]] = lambda step: {},
    ) -> Trained:
        """Train a block.

        Args:
            forms: The block as it is trained, and as it is judged: models whose weights have the same names.
            names: The initializers that are trained.
            variances: For each end what its mean squared error is divided by; ends count alike.
            course: How.
            more: Terms that are minimised beside the errors, and judge nothing.
            masks: See `compile_step`.
            rates: See `compile_step`.
            mixed: See `BlockBatches`.
            scalars: See `BlockBatches`.

        Raises:
            NotDifferentiable: An op of the block has no gradient.
            RunError: A step does not run.
            ValuesNotFinite: What the block reads or should make is not finite.
        """
        student, judged = forms
        terms = [
            LossTerm(LossKind.MSE, name, target_of(name), 1 / len(variances), variance=variance)
            for name, variance in variances.items()
        ]
        masks = {name: mask for name, mask in (masks or {}).items() if name in names}
        step = compile_step(
            student, self._shapes(student), names, [*terms, *more], course.optimizer, masks, rates=rates
        )
        kept = compile_step(judged, self._shapes(judged), step.weights, terms, None)
        first = {name: stored_array(student.graph.initializers[name]) for name in step.weights}
        batches = BlockBatches(self.values, self.positions[0], self.batch, self.seed, mixed, scalars)
        held_out = self.values.batches(self.positions[1], self.batch)
        return train(self._opened(step), self._opened(kept), first, batches, held_out, course, self.tell)

    def _shapes(self, model: ir.Model) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of what a form of the block reads in a step: of values, and of scalars."""
        shapes: dict[str, tuple[int, ...]] = {value.name or "": () for value in model.graph.inputs}
        return shapes | {name: (self.batch, *array.shape[1:]) for name, array in self.values.inputs.items()}

    def _opened(self, step: TrainingStep) -> RunnableStep:
        return RunnableStep.opened(step, self._wanted, self.open_session, self.target)

    def _wanted(self, batch: TrainingBatch) -> Mapping[str, Array]:
        return {target_of(name): array[batch.positions] for name, array in self.values.targets.items()}
