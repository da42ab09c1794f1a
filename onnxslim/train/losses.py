"""Losses: what a training step makes smaller, as nodes that are appended to the student."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Floats
from onnxslim.model.builder import GraphBuilder
from onnxslim.ops.gradient import Shape, static_shape
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has

SMALLEST_PROBABILITY = 1e-30
"""Below, the logarithm of a teacher's probability is taken as that of this."""
MAP_RANK = 4
"""The rank from which on an output without a Softmax is a map of classes along axis 1, as ONNX places channels."""


class LossKind(enum.Enum):
    """How far a value of the student is from what it should be."""

    MSE = "mse"
    """The mean squared difference, over the variance of the target on the samples: 1 is what a constant reaches. Parts
    of different scale count alike."""
    KL = "kl"
    """The divergence of distributions at a temperature, times its square (Hinton, Vinyals and Dean 2015)."""
    KL_OF_PROBABILITIES = "kl_of_probabilities"
    """The same, where the target holds probabilities and the student's value logits."""
    CROSS_ENTROPY = "cross_entropy"
    """That of logits against labels."""
    VALUE = "value"
    """The value itself, a scalar that the student makes; there is no target."""


@dataclasses.dataclass(frozen=True)
class LossTerm:
    """One summand of a loss: a value of the student against a target that is fed with each batch."""

    kind: LossKind
    value: str
    """The value of the student."""
    target: str
    """The input of the step that holds the target; empty where there is none. Labels are one integer for each sample,
    and do not count where they are none of the classes (-1, 255)."""
    weight: float = 1.0
    axis: int = -1
    """The axis of the classes."""
    temperature: float = 1.0
    """Of KL: both distributions are softened by it."""
    variance: float | Floats = dataclasses.field(default=1.0, compare=False)
    """Of MSE: the variance of the target on the samples; one for each part of different scale, broadcast to its shape,
    times what share of the elements they are and how many parts there are (`onnxslim.train.terms.spreads`)."""

    def target_type(self, value: ir.Value) -> tuple[ir.DataType, Shape]:
        """Return the element type and the shape of the target of a value."""
        assert value.dtype is not None
        shape = static_shape(value)
        if self.kind is not LossKind.CROSS_ENTROPY:
            return value.dtype, shape
        axis = self.axis % len(shape)
        return ir.DataType.INT64, (*shape[:axis], *shape[axis + 1 :])

    def build(self, build: GraphBuilder, value: ir.Value, target: ir.Value | None) -> ir.Value:
        """Append the loss of one batch, a float32 scalar without its weight."""
        value = in_type(build, value, ir.DataType.FLOAT)
        if target is None:
            return value
        if self.kind is not LossKind.CROSS_ENTROPY:
            target = in_type(build, target, ir.DataType.FLOAT)
        if self.kind is LossKind.MSE:
            difference = build.op("Sub", value, target)
            squares = build.op("Mul", difference, difference)
            weight = 1 / np.maximum(self.variance, float(np.finfo(np.float32).tiny))
            if np.ndim(weight):
                return build.op("ReduceMean", build.op("Mul", squares, weight.astype(np.float32)), keepdims=0)
            return build.op("Mul", build.op("ReduceMean", squares, keepdims=0), float(weight))
        if self.kind is LossKind.CROSS_ENTROPY:
            shape = static_shape(value)
            axis = self.axis % len(shape)
            classes = np.arange(shape[axis]).reshape([-1 if place == axis else 1 for place in range(len(shape))])
            # not OneHot, which takes -1 for the last class: a label that is none of the classes does not count
            chosen = in_type(
                build, build.op("Equal", build.op("Unsqueeze", target, [axis]), classes), ir.DataType.FLOAT
            )
            return _averaged(build, build.op("Mul", chosen, build.op("LogSoftmax", value, axis=self.axis)), self.axis)
        if self.kind is LossKind.KL_OF_PROBABILITIES:
            target = build.op("Log", build.op("Max", target, SMALLEST_PROBABILITY))
        soft = build.op("LogSoftmax", self._cooled(build, value), axis=self.axis)
        if self.kind is LossKind.KL_OF_PROBABILITIES:  # what is masked by -inf has no logarithm
            soft = build.op("Max", soft, float(np.log(SMALLEST_PROBABILITY)))
        wanted = build.op("LogSoftmax", self._cooled(build, target), axis=self.axis)
        missing = build.op("Sub", soft, wanted)
        divergence = _averaged(build, build.op("Mul", build.op("Exp", wanted), missing), self.axis)
        return build.op("Mul", divergence, self.temperature**2) if self.temperature != 1 else divergence

    def _cooled(self, build: GraphBuilder, logits: ir.Value) -> ir.Value:
        return logits if self.temperature == 1 else build.op("Mul", logits, 1 / self.temperature)


def in_type(build: GraphBuilder, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Return a value in an element type."""
    return value if value.dtype == dtype else build.op("Cast", value, to=dtype)


def _averaged(build: GraphBuilder, summands: ir.Value, axis: int) -> ir.Value:
    """Return minus the sums along an axis, averaged over all the rest."""
    sums = build.op("ReduceSum", summands, [axis], keepdims=0)
    return build.op("Neg", build.op("ReduceMean", sums, keepdims=0))


def logits(output: ir.Value, rank: int) -> tuple[str, int]:
    """Return the name of what a Softmax at the end reads, and its axis; the output itself, of so many axes, and that of
    its channels, where there is none."""
    node = output.producer()
    if node is None or not has(node, Trait.DISTRIBUTION) or node.inputs[0] is None:
        return output.name or "", 1 if rank >= MAP_RANK else -1
    axis = attribute(node, "axis")
    return node.inputs[0].name or "", axis if isinstance(axis, int) else -1
