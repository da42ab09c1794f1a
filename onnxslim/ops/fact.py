"""What is known of one value, and what an inference rule sees of the node that it is asked about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.ops.symbols import Expression, Size, unknown_element, unknown_size

Element = Size | float | None
"""An element of a small tensor; None: not known. Floats with a whole value are ints, booleans 0 and 1."""

MOST_ELEMENTS = 64
"""Larger tensors are data, and compute no shapes."""


class Unknowable(Exception):
    """A rule cannot say anything: the rank of an input is not known, an attribute is a function's parameter."""


class Fact(NamedTuple):
    """What is known of a value."""

    dtype: ir.DataType | None = None
    """The element type of a tensor."""
    shape: tuple[Size, ...] | None = None
    elements: tuple[Element, ...] | None = None
    """All elements, of a tensor of rank 0 or 1 with at most `MOST_ELEMENTS`."""
    other: ir.TypeProtocol | None = None
    """The type of what is no tensor."""


NOTHING = Fact()
ShapeRule = Callable[["NodeFacts"], "Fact | tuple[Fact, ...]"]
"""Says what a node makes: a fact for each output, or one for the only one. Raises `Unknowable` where it cannot."""


class NodeFacts:
    """A node, and what is known of its inputs."""

    __slots__ = ("facts", "node", "scope", "version")

    def __init__(self, node: ir.Node, facts: Sequence[Fact | None], version: int, scope: str = "") -> None:
        self.node = node
        self.facts = facts
        self.version = version
        """Of the node's domain."""
        self.scope = scope
        """Stands before the names of values in unknown sizes: which call of a local function this is in."""

    def fact(self, index: int) -> Fact:
        """Return what is known of an input; `NOTHING` where it is missing."""
        return (self.facts[index] or NOTHING) if index < len(self.facts) else NOTHING

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.facts) and self.facts[index] is not None

    def shape(self, index: int = 0) -> tuple[Size, ...]:
        """Return the shape of an input.

        Raises:
            Unknowable: Its rank is not known, or it is missing.
        """
        fact = self.facts[index] if index < len(self.facts) else None
        if fact is None or fact.shape is None:
            raise Unknowable
        return fact.shape

    def elements(self, index: int) -> tuple[Element, ...] | None:
        """Return the elements of an input; None where it is missing, large, or not even its length is known. Integers
        that nothing is known of are unknown, but the same each time."""
        fact = self.fact(index)
        if fact.elements is not None or fact.shape is None or len(fact.shape) > 1:
            return fact.elements
        length = fact.shape[0] if fact.shape else 1
        value = self.node.inputs[index]
        if not isinstance(length, int) or length > MOST_ELEMENTS or value is None or fact.dtype not in INTEGERS:
            return None
        return tuple(unknown_element(self.scope + (value.name or ""), place) for place in range(length))

    def sizes(self, index: int) -> tuple[Size, ...]:
        """Return the elements of an input that is a vector of integers.

        Raises:
            Unknowable: Not all of them can be named.
        """
        elements = self.elements(index)
        if elements is None or not all(isinstance(element, (int, Expression)) for element in elements):
            raise Unknowable
        return elements  # type: ignore[return-value]  # checked one line up

    def unknown(self, axis: int, output: int = 0) -> Expression:
        """Return the size of an axis of an output, of which nothing is known."""
        return unknown_size(self.scope + (self.node.outputs[output].name or ""), axis)

    def unknowns(self, rank: int) -> tuple[Size, ...]:
        """Return a shape of the first output of which only the rank is known."""
        return tuple(map(self.unknown, range(rank)))


INTEGERS = frozenset(dtype for dtype in ir.DataType if dtype.is_integer() and dtype.bitwidth >= 8)
READ = INTEGERS | {ir.DataType.BOOL, ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16}
EXACT_FLOATS = 1 << 24
"""Whole floats up to here are exact in float32."""


def of_tensor(tensor: ir.TensorProtocol | None) -> Fact:
    """Return what is known of a constant."""
    if tensor is None:
        return Fact()
    sizes = tuple(int(size) for size in tensor.shape)  # type: ignore[arg-type]  # tensors have no symbolic sizes
    elements = None
    if len(sizes) < 2 and math.prod(sizes) <= MOST_ELEMENTS and tensor.dtype in READ:
        elements = elements_of(tensor.numpy())
    return Fact(tensor.dtype, sizes, elements)


def elements_of(array: npt.NDArray[np.generic]) -> tuple[Element, ...]:
    """Return the elements of an array; whole floats and booleans are ints."""
    items = array.ravel().tolist()
    if array.dtype.kind != "f":
        return tuple(int(item) for item in items)
    return tuple(int(x) if abs(x) <= EXACT_FLOATS and x == int(x) else x if math.isfinite(x) else None for x in items)


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        ValueError: There is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"there is no axis {axis} in {rank}")
    return axis % rank
