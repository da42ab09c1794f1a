"""What one op means, side by side: what it makes of shapes, what it says about axes, what follows from a cut."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxslim.ops.binding import dimensions
from onnxslim.ops.cut import Cut
from onnxslim.ops.fact import ShapeRule
from onnxslim.ops.relations import Relate

Ints = tuple[int, ...]
Default = Callable[[ir.Node], Ints | None]
"""Returns what a node takes for an attribute that it leaves out; None where what it hangs on is not known."""


class Constancy(enum.Enum):
    """What is left of a constant channel behind an op."""

    EVALUATED = "evaluated"
    """Place by place a function of the operands: the op itself tells."""
    KEPT = "kept"
    """The same number: elements are moved, or averaged."""
    ZERO_KEPT = "zero kept"
    """0 of 0, and nothing of any other number: elements are summed."""
    LOST = "lost"


@dataclasses.dataclass(frozen=True)
class IndexInto:
    """What an input of indices indexes: they must stay below the size of an axis of another input."""

    data: int
    """The input that is indexed."""
    axis: int | None = None
    """Which of its axes; None: any of them, so that the smallest bounds."""
    attribute: str | None = None
    """The attribute that names the axis, where one does (`axis` is its default)."""
    by_value: bool = False
    """The value of `data` is itself the bound, not its size."""


@dataclasses.dataclass(frozen=True)
class Op:
    """One op. What is left out follows from its row or its kind in `ops.axes`, or is not known."""

    infer: ShapeRule | None = None
    """Shapes, types and small integers of the outputs."""
    relate: Relate | None = None
    """The relations between the axes of its operands; a row says them, too."""
    resize: Callable[[Cut, ir.Node], None] | None = None
    """Rewrites the lengths and places that the node holds, so that they fit axes that are cut."""
    defaults: Mapping[str, Default] = dataclasses.field(default_factory=dict)
    """Defaults that no schema says, because they hang on the node: ``perm`` of Transpose (ONNX, docs/Operators.md)."""
    largest: Callable[[Sequence[npt.NDArray[Any]]], float] | None = None
    """The most elements of an output, given the inputs, where `infer` does not tell."""
    constancy: Callable[[ir.Node], Constancy] | None = None
    """What is left of a constant channel, where the traits of the op do not tell."""
    shape_input: int | None = None
    """The input that holds the shape of the output, where the op has one."""
    fill: Callable[[ir.Node], float | None] | None = None
    """The number that is put where no input is; NaN: computed when the model runs; None: there is none."""
    indices: Mapping[int, IndexInto] = dataclasses.field(default_factory=dict)
    """The inputs that hold indices."""
    carried: Sequence[int] | None = None
    """The inputs whose elements reach a result as they are, if not all, then some, where the traits do not tell."""


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A default that repeats one number for each spatial axis."""

    number: int
    times: int = 1
    """How often for each axis; pads are of both ends."""

    def __call__(self, node: ir.Node) -> Ints | None:
        """Return the numbers; None where the op finds its padding by itself, or the rank is not known."""
        auto = node.attributes.get("auto_pad")
        if auto is not None and (auto.is_ref() or auto.as_string() not in ("NOTSET", "VALID")):
            return None
        kernel = node.attributes.get("kernel_shape")
        if kernel is not None and not kernel.is_ref():
            return (self.number,) * (self.times * len(kernel.as_ints()))
        shape = shape_of_input(node, 0)
        return None if shape is None or len(shape) < 2 else (self.number,) * (self.times * (len(shape) - 2))


def shape_of_input(node: ir.Node, index: int) -> tuple[int | None, ...] | None:
    """Return the shape of an input, None for symbolic sizes; None where it is missing or its rank is not known."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else dimensions(value)


def all_axes(node: ir.Node) -> Ints | None:
    """Return all axes of the first input: the default of many `axes`."""
    shape = shape_of_input(node, 0)
    return None if shape is None else tuple(range(len(shape)))
