"""What a gradient is declared with: a node, the gradients of its results, and a builder for those of its operands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from onnxslim.model.builder import GraphBuilder
from onnxslim.ops.site import Declined, NodeSite, Shape, static_shape

__all__ = ["Declined", "Gradient", "GradientSite", "Shape", "static_shape", "sum_to"]


@dataclasses.dataclass(frozen=True)
class GradientSite(NodeSite):
    """A node that is differentiated: a vector-Jacobian product is built for it."""

    upstream: tuple[ir.Value | None, ...]
    """The gradient of each output, of its shape; None where nothing hangs on it. One at least is there."""
    wanted: frozenset[int]
    """The inputs whose gradients are asked for; others need not be built."""

    @property
    def dtype(self) -> ir.DataType:
        """The element type of the gradients: integers that stand for real numbers have those of real numbers."""
        dtype = next(value for value in self.upstream if value is not None).dtype
        assert dtype is not None
        return dtype

    def result(self, index: int = 0) -> ir.Value:
        """Return an output; one that the node does not make yet, it makes from now on."""
        return self.build.output(self.node, index)

    def hangs_on(self, index: int) -> bool:
        """Whether something that is differentiated hangs on an output."""
        return index < len(self.upstream) and self.upstream[index] is not None

    def incoming(self, index: int = 0) -> ir.Value:
        """Return the gradient of an output; zeros where nothing hangs on it."""
        given = self.upstream[index] if index < len(self.upstream) else None
        return self.zeros(self.result(index)) if given is None else given

    def zeros(self, like: ir.Value) -> ir.Value:
        """Return zeros of the shape of a value and of the type of the gradients."""
        return self.filled(static_shape(like), 0, self.dtype)

    def mask(self, condition: ir.Value) -> ir.Value:
        """Return 1 where a condition holds, and else 0, of the type of the gradients.

        To multiply by it takes ONNX Runtime's CPU kernels a thirtieth of the time of a Where.
        """
        return self.op("Cast", condition, to=int(self.dtype))

    def sum_to(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Return the sums over the axes along which an operand of this shape was broadcast."""
        return sum_to(self.build, value, shape)


Gradient = Callable[[GradientSite], Mapping[int, "ir.Value | None"]]
"""Builds the gradients of inputs, by their index: None, or no entry, where an input has no part in the result, is
integer, or the result is piecewise constant in it. Where an input was broadcast elementwise, its gradient may have the
shape of the result: it is summed afterwards. Raises `Unknowable` where a parameter or size is not known, `Declined`
where the node has none."""


def sum_to(build: GraphBuilder, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """Return the sums of a value over the axes along which an operand of this shape was broadcast to it."""
    own = static_shape(value)
    if own == tuple(shape):
        return value
    extra = len(own) - len(shape)
    axes = [axis for axis, size in enumerate(own) if axis < extra or (shape[axis - extra] == 1 and size != 1)]
    if axes:
        value = build.op("ReduceSum", value, axes, keepdims=0)
    return value if static_shape(value) == tuple(shape) else build.op("Reshape", value, list(shape))
