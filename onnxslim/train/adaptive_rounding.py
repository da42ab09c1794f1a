"""Adaptive rounding: whether each weight is rounded up or down is learned.

A weight is s (floor(w / s) + h(v)), where h is a sigmoid that is stretched and cut off at 0 and 1. It begins half-way
between the weight as it was and as it has been rounded, so that v has the sign of that rounding where this was to a
neighbour. What is added to the loss, the mean of 1 - |2 h(v) - 1| ^ beta, drives h to 0 or 1: a large beta leaves it
alone but near the ends, a smaller one ever less. Where v is above 0 the weight is rounded up.

The steps are hundreds here where the paper takes thousands: the exponent begins at 6 in place of 20, where most weights
would long not be driven at all, and the rate does not fall.

Source: M. Nagel and others, Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020, section 3.3.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.edit import Editor
from onnxslim.train.fake_quantization import StoredIntegers

STRETCH, SHIFT = 1.2, -0.1
"""h(v) = clip(STRETCH sigmoid(v) + SHIFT, 0, 1): it reaches its ends, and has a gradient on the way there."""
EXACT = 1e-4
"""How far a quotient may lie below a whole number, in steps, and count as it: single precision rounds."""
BETA, STRENGTH = "rounding_beta", "rounding_strength"
"""Inputs of a step: the exponent, and how much it counts that weights are not rounded yet."""


@dataclasses.dataclass(frozen=True)
class RoundingSchedule:
    """When weights are driven to whole levels, and how hard."""

    steps: int
    strength: float
    """How much a weight counts that is half a step from any level, all weights of a block together."""
    warm_up: float = 0.2
    """The share of the steps in which they are not driven."""
    first: float = 6.0
    """The exponent afterwards, and at the end."""
    last: float = 2.0

    def __call__(self, step: int) -> dict[str, Array]:
        """Return the inputs of a step, counted from 0."""
        done = (step / max(self.steps, 1) - self.warm_up) / (1 - self.warm_up)
        beta = self.last + (self.first - self.last) * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2
        strength = self.strength if done >= 0 else 0.0
        return {BETA: np.asarray(beta, np.float32), STRENGTH: np.asarray(strength, np.float32)}


class AdaptiveRounding:
    """Makes the weights of a student, each of a parameter that is learned (a `Rounder`).

    Args:
        reals: Real numbers of stored weights, by the names of their integers; of others their integers are real.
        hard: Whether each weight is a level, as in the result; else it lies between two.
    """

    def __init__(self, reals: Mapping[str, Array], *, hard: bool = False) -> None:
        self._reals, self._hard = reals, hard
        self._parts: dict[str, ir.Value] = {}
        self._shares: dict[str, ir.Value] = {}

    def __call__(self, editor: Editor, stored: StoredIntegers, node: ir.Node) -> ir.Value:
        """Insert what makes a weight before a node, and return it."""
        low, rest = self._quotient(stored)
        if stored.name not in self._parts:
            share = (rest + np.clip(stored.levels - low, 0, 1)) / 2
            self._parts[stored.name] = editor.initializer(stored.name, _inverse(share).astype(np.float32))
        parameter = self._parts[stored.name]

        def add(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
            return _insert(editor, node, op_type, inputs, attributes)

        def number(array: Array | float) -> ir.Value:
            return editor.constant("rounding_constant_", np.asarray(array, np.float32))

        if self._hard:
            share = add("Cast", add("Greater", parameter, number(0.0)), to=ir.DataType.FLOAT.value)
        else:
            stretched = add("Add", add("Mul", add("Sigmoid", parameter), number(STRETCH)), number(SHIFT))
            share = add("Clip", stretched, number(0.0), number(1.0))
            if stored.name not in self._shares:
                self._shares[stored.name] = share
        return add("Mul", add("Add", share, number(low)), number(stored.scale))

    def undecided(self, editor: Editor, names: Sequence[str]) -> ir.Value:
        """Append how far some weights are from whole levels, a scalar; there are new inputs `BETA` and `STRENGTH`.

        Args:
            editor: Of the student.
            names: Of their parameters.
        """
        graph = editor.graph
        beta, strength = (
            ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(())) for name in (BETA, STRENGTH)
        )
        graph.inputs.extend((beta, strength))

        def add(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
            return _insert(editor, None, op_type, inputs, attributes)

        def number(value: float) -> ir.Value:
            return editor.constant("rounding_constant_", np.asarray(value, np.float32))

        sums = []
        for name in names:
            distance = add("Abs", add("Sub", add("Mul", self._shares[name], number(2.0)), number(1.0)))
            sums.append(add("ReduceSum", add("Pow", distance, beta), keepdims=0))
        sizes = [math.prod(self._parts[name].const_value.shape.numpy()) for name in names]  # type: ignore[union-attr]
        mean = add("Mul", add("Sum", *sums), number(1 / sum(sizes)))
        return add("Mul", add("Sub", number(1.0), mean), strength)

    def learned(self, stored: StoredIntegers, parameter: Array) -> Array:
        """Return the real numbers, all of them levels, that a parameter stands for."""
        low, _ = self._quotient(stored)
        real: Array = ((low + (parameter > 0)) * stored.scale).astype(np.float32)
        return real

    def _quotient(self, stored: StoredIntegers) -> tuple[Array, Array]:
        """Return the level below each weight, zero points taken off, and how far above it lies, from 0 to 1."""
        real = self._reals.get(stored.integers.name or "", stored.real)
        low, high = (limit - stored.zero for limit in stored.limits)
        quotient = np.clip(real.astype(np.float64) / stored.scale, low, high)
        floor = np.minimum(np.floor(quotient + EXACT), high - 1)
        return floor, np.clip(quotient - floor, 0.0, 1.0)


def _inverse(share: Array) -> Array:
    """Return the parameter of which h is a share."""
    inner = (share - SHIFT) / STRETCH
    found: Array = np.log(inner / (1 - inner))
    return found


def _insert(
    editor: Editor, before: ir.Node | None, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int]
) -> ir.Value:
    """Insert a node before another one, or at the end, and return its output."""
    made = ir.node(op_type, inputs, attributes)
    made.outputs[0].name = editor.numbered("rounding_")
    if before is None:
        editor.graph.append(made)
    else:
        editor.graph.insert_before(before, made)
    return made.outputs[0]
