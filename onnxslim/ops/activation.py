"""Activations that attributes name: of recurrences, and of ops that a runtime fused with one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import onnx_ir as ir

from onnxslim.ops.site import NodeSite


@dataclasses.dataclass(frozen=True)
class Activation:
    """A function of one value, of at most two numbers."""

    build: Callable[..., ir.Value]
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """``alpha``, ``beta`` or both: what the function takes for them."""

    @property
    def takes(self) -> tuple[str, ...]:
        """The numbers that it takes."""
        return tuple(self.numbers)

    def __call__(self, site: NodeSite, value: ir.Value) -> ir.Value:
        """Build the function of a value."""
        return self.build(site, value, **self.numbers)


def activation(name: str) -> Activation | None:
    """Return an activation by its name, of any case, with its numbers as they are by default; None: it is not known.

    Source: ONNX specification, docs/Operators.md: RNN, "Activation functions"; the default numbers are those of ONNX
    Runtime, which for ops that ONNX has are those of the ops.
    """
    return {known.lower(): found for known, found in KNOWN.items()}.get(name.lower())


def _node(op_type: str) -> Callable[..., ir.Value]:
    return functools.partial(_built, op_type)


def _built(op_type: str, site: NodeSite, value: ir.Value, **numbers: float) -> ir.Value:
    return site.op(op_type, value, **numbers)


def _affine(site: NodeSite, value: ir.Value, alpha: float, beta: float) -> ir.Value:
    return site.op("Add", site.op("Mul", value, alpha), beta)


def _scaled_tanh(site: NodeSite, value: ir.Value, alpha: float, beta: float) -> ir.Value:
    return site.op("Mul", site.op("Tanh", site.op("Mul", value, beta)), alpha)


KNOWN: Mapping[str, Activation] = {
    **{name: Activation(_node(name)) for name in ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")},
    "LeakyRelu": Activation(_node("LeakyRelu"), {"alpha": 0.01}),
    "ThresholdedRelu": Activation(_node("ThresholdedRelu"), {"alpha": 1.0}),
    "Elu": Activation(_node("Elu"), {"alpha": 1.0}),
    "HardSigmoid": Activation(_node("HardSigmoid"), {"alpha": 0.2, "beta": 0.5}),
    "Affine": Activation(_affine, {"alpha": 1.0, "beta": 0.0}),
    "ScaledTanh": Activation(_scaled_tanh, {"alpha": 1.0, "beta": 1.0}),
}
