"""What a gradient is declared with: a node, the gradients of its results, and a builder for those of its operands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.model.builder import GraphBuilder
from onnxslim.ops.binding import dimensions
from onnxslim.ops.fact import Element, Unknowable
from onnxslim.ops.parameters import known_elements, opset_of

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class GradientSite:
    """A node that is differentiated: a vector-Jacobian product is built for it.

    Reads parameters as `onnxslim.ops.parameters.read` wants it. All sizes are numbers.
    """

    node: ir.Node
    build: GraphBuilder
    upstream: tuple[ir.Value | None, ...]
    """The gradient of each output, of its shape; None where nothing hangs on it. One at least is there."""
    wanted: frozenset[int]
    """The inputs whose gradients are asked for; others need not be built."""

    @property
    def version(self) -> int:
        """The operator set of the node's domain."""
        return opset_of(self.node)

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def elements(self, index: int) -> tuple[Element, ...] | None:
        """Return the elements of an input of integers, None for each that is not known; None where there is none."""
        return known_elements(self.node.inputs[index]) if self.has(index) else None

    def operand(self, index: int = 0) -> ir.Value:
        """Return an input that is there."""
        value = self.node.inputs[index]
        assert value is not None
        return value

    def result(self, index: int = 0) -> ir.Value:
        """Return an output; one that the node does not make yet, it makes from now on."""
        return self.build.output(self.node, index)

    def shape(self, index: int = 0) -> Shape:
        """Return the shape of an input.

        Raises:
            Unknowable: A size is not known.
        """
        return static_shape(self.operand(index))

    def result_shape(self, index: int = 0) -> Shape:
        """Return the shape of an output.

        Raises:
            Unknowable: A size is not known.
        """
        return static_shape(self.node.outputs[index])

    def hangs_on(self, index: int) -> bool:
        """Whether something that is differentiated hangs on an output."""
        return index < len(self.upstream) and self.upstream[index] is not None

    def incoming(self, index: int = 0) -> ir.Value:
        """Return the gradient of an output; zeros where nothing hangs on it."""
        given = self.upstream[index] if index < len(self.upstream) else None
        return self.zeros(self.result(index)) if given is None else given

    def zeros(self, like: ir.Value) -> ir.Value:
        """Return zeros of the type and shape of a value."""
        assert like.dtype is not None
        zero = ir.tensor(np.zeros(1, like.dtype.numpy()))
        return self.build.op("ConstantOfShape", static_shape(like), value=zero)

    def op(self, op_type: str, *operands: Any, **attributes: Any) -> ir.Value:
        """Append a node with one output, and return that; operands as `onnxslim.model.builder.Operand` has them."""
        return self.build.op(op_type, *operands, **attributes)

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Return the elements of a value in another shape."""
        return value if static_shape(value) == tuple(shape) else self.op("Reshape", value, list(shape))

    def sum(self, value: ir.Value, axes: Sequence[int], *, keep: bool = False) -> ir.Value:
        """Return the sums over some axes, which stay as axes of size 1 where they are to be kept."""
        return self.op("ReduceSum", value, list(axes), keepdims=int(keep)) if axes else value

    def sum_to(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Return the sums over the axes along which an operand of this shape was broadcast."""
        return sum_to(self.build, value, shape)


Gradient = Callable[[GradientSite], Mapping[int, "ir.Value | None"]]
"""Builds the gradients of inputs, by their index: None, or no entry, where an input has no part in the result, is
integer, or the result is piecewise constant in it. Where an input was broadcast elementwise, its gradient may have the
shape of the result: it is summed afterwards. Raises `Unknowable` where a parameter or size is not known."""


def static_shape(value: ir.Value) -> Shape:
    """Return the shape of a value.

    Raises:
        Unknowable: A size is not known.
    """
    shape = dimensions(value)
    if shape is None or None in shape:
        raise Unknowable
    return shape  # type: ignore[return-value]  # checked one line up


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
