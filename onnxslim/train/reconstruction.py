"""Reconstruction of one block of a quantized model: it learns to make what the float model makes there.

Learned are the roundings of its weights (`onnxslim.train.adaptive_rounding`), its biases, and the scales of what flows
between (LSQ, `onnxslim.train.fake_quantization`); scales of weights stay. What is kept is what did best, with every
weight rounded, on samples that were set aside.

Sources: M. Nagel and others, Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020; Y. Li and others,
BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction, ICLR 2021, algorithm 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.constants import stored_array
from onnxslim.model.edit import Editor
from onnxslim.train.adaptive_rounding import AdaptiveRounding, RoundingSchedule
from onnxslim.train.block_training import BlockTask
from onnxslim.train.fake_quantization import QuantizedStudent, quantized_student, stored_integers
from onnxslim.train.loop import Course, Trained
from onnxslim.train.losses import LossKind, LossTerm
from onnxslim.train.optimizer import Optimizer, OptimizerKind
from onnxslim.train.schedule import Schedule

BIAS_RATE, SCALE_RATE = 0.02, 0.02
"""How fast biases (in their root mean square) and logarithms of scales learn, beside the parameters of roundings, which
go from one end to the other within 5."""
UNMIXED = 0.6
"""The share of the steps after which a block reads what the quantized model gives, and nothing else."""
LAST_RATE = 0.1
"""What is left of the rate at the end; weights are still driven to levels with it."""
EVALUATIONS = 8
"""So many times the block is measured on what is set aside."""


@dataclasses.dataclass(frozen=True)
class ReconstructionSettings:
    """How each block is trained."""

    steps: int
    batch: int
    rate: float
    """The highest learning rate, of Adam."""
    mixed: float
    """The share of the elements of what a block reads that are those of the float model, at first."""
    strength: float
    """See `RoundingSchedule`; the error of the block as it was counts 1."""

    def mixed_at(self, step: int) -> float:
        """Return the share of elements of the float model at a step: none where biases settle."""
        return self.mixed * max(0.0, 1 - step / max(1.0, UNMIXED * self.steps))


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a block has learned, by the names of the initializers of the quantized model."""

    reals: Mapping[str, Array]
    """What stored integers stand for; of weights these are levels."""
    growth: Mapping[str, Array]
    """The logarithms of what scales are multiplied by."""

    def write(self, model: ir.Model) -> None:
        """Write it into the quantized model, in place."""
        stored = (dataclasses.replace(each, name=each.integers.name or "") for each in stored_integers(model.graph))
        factors = {model.graph.initializers[name]: name for name in self.growth}
        QuantizedStudent(model, (), tuple(stored), factors).write({**self.reals, **self.growth})


class BlockReconstruction:
    """One block of a quantized model, and its training.

    Args:
        part: The block, as a model by itself; it is not changed.
        base: A copy at an operator set that is trained; changed in place, and of no use afterwards.
        reals: The real numbers that weights stand for, by the names of their integers.
        trained: The names of the integers, of weights and biases, and of the scales that are trained.
    """

    def __init__(self, part: ir.Model, base: ir.Model, reals: Mapping[str, Array], trained: Collection[str]) -> None:
        self._rounding = AdaptiveRounding(reals)
        self._rounded = quantized_student(part, base.clone(), AdaptiveRounding(reals, hard=True)).model
        student = quantized_student(part, base, self._rounding)
        self._student, self._masks = student.model, student.masks
        self._stored = {stored.name: stored for stored in student.stored if stored.integers.name in trained}
        self._scales = {name: scale.name or "" for scale, name in student.factors.items() if scale.name in trained}
        weights = [name for name, stored in self._stored.items() if not stored.is_bias]
        undecided = self._rounding.undecided(Editor(self._student), weights)
        self._student.graph.outputs.append(undecided)
        self._undecided = undecided.name or ""

    def train(self, settings: ReconstructionSettings, task: BlockTask) -> tuple[Trained, Learned]:
        """Train; return how it went and what was learned. A loss of 1 is the error of the block as it was.

        Args:
            settings: How.
            task: What on.

        Raises:
            NotDifferentiable: An op of the block has no gradient.
            RunError: A step does not run.
        """
        inner = self._student.graph.initializers
        rates = dict.fromkeys(self._scales, SCALE_RATE)
        rates |= {name: BIAS_RATE * _size(inner[name]) for name, stored in self._stored.items() if stored.is_bias}
        every = max(1, settings.steps // EVALUATIONS)
        trained = task.train(
            (self._student, self._rounded),
            [*self._stored, *self._scales],
            task.errors,
            Course(Schedule(settings.rate, settings.steps, last=LAST_RATE), Optimizer(OptimizerKind.ADAM), every),
            more=[LossTerm(LossKind.VALUE, self._undecided, "")],
            masks=self._masks,
            rates=rates,
            mixed=settings.mixed_at,
            scalars=RoundingSchedule(settings.steps, settings.strength),
        )
        return trained, self._learned(trained.weights)

    def _learned(self, weights: Mapping[str, Array]) -> Learned:
        reals = {
            stored.integers.name or "": weights[name]
            if stored.is_bias
            else self._rounding.learned(stored, weights[name])
            for name, stored in self._stored.items()
            if name in weights
        }
        return Learned(reals, {scale: weights[name] for name, scale in self._scales.items() if name in weights})


def _size(bias: ir.Value) -> float:
    """Return the root mean square of a bias."""
    return float(np.sqrt(np.mean(np.square(stored_array(bias))))) or 1.0
