"""A node that others are built for: reads its parameters and sizes, and appends nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.model.builder import GraphBuilder
from onnxslim.ops.binding import dimensions
from onnxslim.ops.fact import Element, Unknowable
from onnxslim.ops.parameters import known_elements, opset_of

Shape = tuple[int, ...]


class Declined(Exception):
    """What is declared of an op does not hold for a node; the message says why, as in "it writes a place twice"."""


@dataclasses.dataclass(frozen=True)
class NodeSite:
    """A node, and a builder. Reads parameters as `onnxslim.ops.parameters.read` wants it. All sizes are numbers."""

    node: ir.Node
    build: GraphBuilder

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

    def op(self, op_type: str, *operands: Any, **attributes: Any) -> ir.Value:
        """Append a node with one output, and return that; operands as `onnxslim.model.builder.Operand` has them."""
        return self.build.op(op_type, *operands, **attributes)

    def ops(self, op_type: str, *operands: Any, count: int, **attributes: Any) -> Sequence[ir.Value]:
        """Append a node, and return its `count` outputs."""
        return self.build.ops(op_type, *operands, count=count, **attributes)

    def filled(self, shape: Sequence[int], number: float, dtype: ir.DataType) -> ir.Value:
        """Return a value of this shape and type that holds one number everywhere."""
        return self.op("ConstantOfShape", list(shape), value=ir.tensor(np.full(1, number, dtype.numpy())))

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Return the elements of a value in another shape."""
        if static_shape(value) == tuple(shape):
            return value
        return self.op("Reshape", value, list(shape), allowzero=1 if 0 in shape else None)

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """Return a value with its axes in another order."""
        return value if list(order) == sorted(order) else self.op("Transpose", value, perm=list(order))

    def sum(self, value: ir.Value, axes: Sequence[int], *, keep: bool = False) -> ir.Value:
        """Return the sums over some axes, which stay as axes of size 1 where they are to be kept."""
        return self.op("ReduceSum", value, list(axes), keepdims=int(keep)) if axes else value

    def cut(self, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        """Return the places of an axis from `start` to `stop`, counted from the front."""
        whole = static_shape(value)[axis] == stop and not start
        return value if whole else self.op("Slice", value, [start], [stop], [axis])

    def padded(self, value: ir.Value, before: Sequence[int], after: Sequence[int]) -> ir.Value:
        """Return a value with so many zeros before and after it, for each axis; negative numbers cut it."""
        return self.op("Pad", value, [*before, *after]) if any((*before, *after)) else value


Body = Callable[[NodeSite], Sequence["ir.Value | None"]]
"""Builds what a node computes of other nodes, and returns its outputs, None for those that the node does not make.
Raises `Declined` where the node is of a form that it does not know, `Unknowable` where a size or parameter is not."""


def static_shape(value: ir.Value) -> Shape:
    """Return the shape of a value.

    Raises:
        Unknowable: A size is not known.
    """
    shape = dimensions(value)
    if shape is None or None in shape:
        raise Unknowable
    return shape  # type: ignore[return-value]  # checked one line up
