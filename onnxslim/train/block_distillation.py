"""Distillation of one block: its weights learn to make what the original makes there, of what the student makes so far.

Source: A. Romero and others, FitNets: Hints for Thin Deep Nets, ICLR 2015, section 2.2, for parts of a student that
learn by the squared difference from what the teacher makes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.edit import overwrite
from onnxslim.train.block_training import BlockTask
from onnxslim.train.distillation import DistillationSettings
from onnxslim.train.loop import Course, Trained
from onnxslim.train.schedule import Schedule
from onnxslim.train.terms import spread


@dataclasses.dataclass(frozen=True)
class LearnedWeights:
    """What a block has learned."""

    arrays: Mapping[str, Array]
    """By the names of initializers."""

    def write(self, model: ir.Model) -> None:
        """Write it into the student, in place."""
        for name, array in self.arrays.items():
            overwrite(model.graph.initializers[name], array)


def distill_block(
    block: ir.Model,
    names: Sequence[str],
    settings: DistillationSettings,
    masks: Mapping[str, Array],
    task: BlockTask,
) -> tuple[Trained, LearnedWeights]:
    """Train a block; return how it went and what was learned. A loss of 1 is what a constant reaches.

    Args:
        block: The block as a model by itself, at operator set 18 or a newer one; not changed.
        names: Its initializers that are trained.
        settings: How: `epochs` is how often it sees each sample, and `seconds` are its own.
        masks: For weights of which some elements stay as they are: 1 where they move and 0 where they do not.
        task: What on.

    Raises:
        NotDifferentiable: An op of the block has no gradient.
        RunError: A step does not run.
        ValuesNotFinite: What the block reads or should make is not finite.
    """
    per_epoch = max(1, len(task.positions[0]) // task.batch)
    steps = settings.epochs * per_epoch
    trained = task.train(
        (block, block),
        names,
        {name: spread(task.values.targets[name]) for name in task.errors},
        Course(
            Schedule(settings.rate_of(steps), steps, settings.warm_up),
            settings.optimizer,
            per_epoch,
            settings.patience,
            settings.seconds,
        ),
        masks=masks,
    )
    return trained, LearnedWeights(trained.weights)
