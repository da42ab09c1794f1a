"""Optimisers: how a weight follows its gradient, as nodes of the training step."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxslim.model.builder import GraphBuilder
from onnxslim.ops.gradient import static_shape

RATE = "learning_rate"
"""The input of the step that scales its updates."""
FIRST_CORRECTION, SECOND_CORRECTION = "first_moment_correction", "second_moment_correction"
"""The inputs of the step that undo the start of Adam's moments from zero."""


class OptimizerKind(enum.Enum):
    """The rule that makes an update of a gradient."""

    SGD = "sgd"
    """With momentum: v = m v + g, w = w - r v (Polyak 1964, in the form of Sutskever et al. 2013)."""
    ADAM = "adam"
    """Kingma and Ba 2015, algorithm 1; weight decay is added to the gradient."""
    ADAMW = "adamw"
    """The same; weight decay acts on the weight itself (Loshchilov and Hutter 2019, algorithm 2)."""


RATES_FROM_SCRATCH: Mapping[OptimizerKind, float] = {
    OptimizerKind.SGD: 0.05,
    OptimizerKind.ADAM: 3e-3,
    OptimizerKind.ADAMW: 3e-3,
}
"""Learning rates for weights that may be random."""


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A rule and its constants. The learning rate is an input of each step."""

    kind: OptimizerKind = OptimizerKind.ADAMW
    momentum: float = 0.9
    """Of SGD; of Adam the decay of the first moments."""
    decay: float = 0.999
    """The decay of Adam's second moments."""
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    """Of weights with two axes or more: not of biases and scales."""
    clip: float | None = None
    """The largest norm of all gradients together; None: as they are."""

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the tensors that are kept for each weight, of its shape, zeros at first."""
        if self.kind is OptimizerKind.SGD:
            return ("momentum",) if self.momentum else ()
        return ("first_moment", "second_moment")

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the scalar inputs of a step."""
        return (RATE,) if self.kind is OptimizerKind.SGD else (RATE, FIRST_CORRECTION, SECOND_CORRECTION)

    def values(self, step: int, rate: float) -> Mapping[str, float]:
        """Return the scalar inputs of step `step`, counted from 0, at a learning rate."""
        if self.kind is OptimizerKind.SGD:
            return {RATE: rate}
        return {
            RATE: rate,
            FIRST_CORRECTION: 1 / (1 - self.momentum ** (step + 1)),
            SECOND_CORRECTION: 1 / math.sqrt(1 - self.decay ** (step + 1)),
        }

    def clipped(self, build: GraphBuilder, gradients: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Return gradients scaled so that their common norm is `clip` at most (Pascanu et al. 2013, algorithm 1)."""
        if self.clip is None or not gradients:
            return gradients
        squares = [build.op("ReduceSumSquare", gradient, keepdims=0) for gradient in gradients]
        norm = build.op("Sqrt", build.op("Sum", *squares))
        factor = build.op("Div", build.number(self.clip, norm), build.op("Max", norm, self.clip))
        return [build.op("Mul", gradient, factor) for gradient in gradients]

    def update(
        self, build: GraphBuilder, weight: ir.Value, gradient: ir.Value, scalar: Callable[[str], ir.Value],
        state: Callable[[str], ir.Value],
    ) -> tuple[ir.Value, Mapping[str, ir.Value]]:  # fmt: skip
        """Append the update of one weight.

        Args:
            build: Appends to the step.
            weight: The weight before.
            gradient: Of its shape.
            scalar: Gives a scalar input by its name.
            state: Gives a state of this weight by its name.

        Returns:
            The weight and its states afterwards.
        """
        rate = scalar(RATE)
        decay = self.weight_decay if len(static_shape(weight)) > 1 else 0.0
        if decay and self.kind is not OptimizerKind.ADAMW:
            gradient = build.op("Add", gradient, build.op("Mul", weight, decay))
        if self.kind is OptimizerKind.SGD:
            if not self.momentum:
                return build.op("Sub", weight, build.op("Mul", gradient, rate)), {}
            moved = build.op("Add", build.op("Mul", state("momentum"), self.momentum), gradient)
            return build.op("Sub", weight, build.op("Mul", moved, rate)), {"momentum": moved}
        first = _mixed(build, state("first_moment"), gradient, self.momentum)
        second = _mixed(build, state("second_moment"), build.op("Mul", gradient, gradient), self.decay)
        size = build.op("Add", build.op("Mul", build.op("Sqrt", second), scalar(SECOND_CORRECTION)), self.epsilon)
        change = build.op("Mul", build.op("Div", first, size), scalar(FIRST_CORRECTION))
        if decay and self.kind is OptimizerKind.ADAMW:
            change = build.op("Add", change, build.op("Mul", weight, decay))
        moved = build.op("Sub", weight, build.op("Mul", change, rate))
        return moved, {"first_moment": first, "second_moment": second}


def _mixed(build: GraphBuilder, old: ir.Value, new: ir.Value, share: float) -> ir.Value:
    return build.op("Add", build.op("Mul", old, share), build.op("Mul", new, 1 - share))
