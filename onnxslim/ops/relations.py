"""Relations between the axes of a node's operands, as data: which are one, which are products, which are frozen."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Union

import onnx_ir as ir

from onnxslim.arrays import Indices
from onnxslim.diagnostic import Code
from onnxslim.ops.binding import Dimensions, ShapeOf, dimensions
from onnxslim.ops.fact import Element, Unknowable
from onnxslim.ops.parameters import describe, known_elements, opset_of


class Axis(NamedTuple):
    """One axis of a value that a node reads or makes."""

    value: ir.Value
    position: int


class Factor(NamedTuple):
    """A factor of axes that is no axis by itself: a letter of a row of `ops.axes`, the repeats of a Tile."""

    letter: str
    place: int = 0
    """Within an ellipsis the place from the right, else 0."""
    size: int | None = None


AnyAxis = Union[Axis, Factor]  # noqa: UP007  # evaluated, on Python 3.10 too


class FreezeCode(Code):
    """Why an axis must stay as it is; the value says so in words, with the node, and a detail, put in."""

    UNKNOWN_SHAPE = "{node}: a shape is not known before the model runs"
    UNKNOWN_SIZE = "{node}: a size is not known before the model runs"
    NO_COMMON_FACTORS = "{node}: axes of {detail}"
    NO_SIGNATURE = "{node} has no axis signature that fits"
    UNFOLLOWED = "{node}: {detail}"
    GRAPH_INPUT = "graph input {detail}"
    GRAPH_OUTPUT = "graph output {detail}"
    CAPTURED = "the nested graph of {node} reads it"
    COMPUTED_SHAPE = "{node}: its shape is computed when the model runs"
    COMPUTED_SIZES = "{node}: its sizes are computed when the model runs"
    COMPUTED_AXES = "{node}: its axes are computed when the model runs"
    COMPUTED_AXIS = "{node}: its axis is computed when the model runs"
    COMPUTED_REPEATS = "{node}: its repeats are computed when the model runs"
    COMPUTED_PLACES = "{node} takes places that are computed when the model runs"
    LOOKED_UP = "{node} looks places up in it"
    SCATTERED = "{node} puts places into it"
    PADDED = "{node} pads it, and not with a constant number of constants"
    ORDERED = "{node}: places along it have an order"
    BLOCKS = "{node} scales blocks"
    ANSWERED = "{node} answers with places in it"
    SIZE_READ = "{node}: its size is read when the model runs"
    PLACES_IN_SHAPE = "{node}: places in a shape"
    SETTINGS = "{node} reads it as places or lengths"
    RESIZED = "{node} resizes it"
    REPEATED = "{node} repeats so often"
    FIXED_FACTOR = "{node}: no channels, but places or gates"
    READ_AS_WHOLE = "{node} reads it as a whole"
    FAILED = "{node}: its axes are not known, for the code that relates them fails: {detail}"
    SINGLE = "an axis of size 1"
    CUT_ACROSS = "a Concat, Split or reshape cuts across the factors of this axis"


INHERENT = frozenset(
    {
        FreezeCode.PLACES_IN_SHAPE,
        FreezeCode.SETTINGS,
        FreezeCode.RESIZED,
        FreezeCode.REPEATED,
        FreezeCode.FIXED_FACTOR,
        FreezeCode.READ_AS_WHOLE,
        FreezeCode.SINGLE,
    }
)
"""Codes of axes that could be cut in no model: a window, a number of gates, a place in a shape."""


@dataclasses.dataclass(frozen=True)
class Freeze:
    """Why an axis, or some of its indices, must stay as they are."""

    code: FreezeCode
    node: ir.Node | None = None
    detail: str = ""

    @property
    def inherent(self) -> bool:
        """Whether the axis is none that could be cut in any model."""
        return self.code in INHERENT

    @property
    def reason(self) -> str:
        """The reason in words, with the names of the node or value concerned."""
        node = "" if self.node is None else describe(self.node)
        return self.code.value.format(node=node, detail=self.detail)

    @property
    def kind(self) -> str:
        """The reason in words that name nothing of this model but the op."""
        node = "" if self.node is None else self.node.op_type
        named = self.code in (FreezeCode.GRAPH_INPUT, FreezeCode.GRAPH_OUTPUT)
        return self.code.value.format(node=node, detail="" if named else self.detail).rstrip()


class Equal(NamedTuple):
    """Two axes are one: place i of the one is place i of the other."""

    first: AnyAxis
    second: AnyAxis


def equal_axes(first: Iterable[AnyAxis], second: Iterable[AnyAxis]) -> Iterator[Equal]:
    """Yield that axes are one, pair by pair.

    Raises:
        ValueError: There are more of the one than of the other.
    """
    return itertools.starmap(Equal, zip(first, second, strict=True))


class Factored(NamedTuple):
    """An axis is the product of factors, the slowest first."""

    whole: Axis
    factors: tuple[AnyAxis, ...]


class SameElements(NamedTuple):
    """Two runs of axes hold the same elements in the same order, as a reshape does."""

    first: tuple[Axis, ...]
    second: tuple[Axis, ...]


class Pairs(NamedTuple):
    """`first[first_indices]` and `second[second_indices]` are pairwise the same places."""

    first: Axis
    first_indices: Indices
    second: Axis
    second_indices: Indices


class Mixes(NamedTuple):
    """The op mixes along an axis (norms, means): cutting it is sound, but not exact."""

    axis: AnyAxis


class AddsUp(NamedTuple):
    """The op adds up along an axis: places that hold 0 add nothing."""

    axis: Axis


class Frozen(NamedTuple):
    """An axis must stay as it is."""

    axis: AnyAxis
    why: Freeze


Relation = Union[Equal, Factored, SameElements, Pairs, Mixes, AddsUp, Frozen]  # noqa: UP007  # evaluated, on Python 3.10 too


class NodeAxes:
    """A node and the axes of its operands, with their sizes as far as they are known, as `shape_of` says them."""

    __slots__ = ("node", "shape_of")

    def __init__(self, node: ir.Node, shape_of: ShapeOf = dimensions) -> None:
        self.node = node
        self.shape_of = shape_of

    @property
    def version(self) -> int:
        """The operator set of the node's domain."""
        return opset_of(self.node)

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def elements(self, index: int) -> tuple[Element, ...] | None:
        """Return the elements of an input, None for each that is not known; None where not even their number is."""
        return known_elements(self.node.inputs[index]) if self.has(index) else None

    def shape(self, value: ir.Value | None) -> Dimensions:
        """Return the shape of a value.

        Raises:
            Unknowable: It is missing, or its rank is not known.
        """
        shape = None if value is None else self.shape_of(value)
        if shape is None:
            raise Unknowable
        return shape

    def axes(self, value: ir.Value | None) -> tuple[Axis, ...]:
        """Return the axes of a value.

        Raises:
            Unknowable: It is missing, or its rank is not known.
        """
        rank = len(self.shape(value))
        assert value is not None
        return tuple(map(Axis, itertools.repeat(value), range(rank)))

    def source_and_result(self) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """Return the axes of the first input and of the first output.

        Raises:
            Unknowable: The rank of one of them is not known.
        """
        return self.axes(self.node.inputs[0]), self.axes(self.node.outputs[0])

    def size(self, axis: Axis) -> int | None:
        """Return how long an axis of a value of known rank is; None where it is symbolic."""
        shape = self.shape_of(axis.value)
        return None if shape is None else shape[axis.position]

    def freeze(self, axes: Iterable[AnyAxis], code: FreezeCode, detail: str = "") -> Iterator[Frozen]:
        """Yield that `axes` must stay as they are."""
        why = Freeze(code, self.node, detail)
        return (Frozen(axis, why) for axis in axes)

    def freeze_values(self, values: Iterable[ir.Value | None], code: FreezeCode, detail: str = "") -> Iterator[Frozen]:
        """Yield that all axes of `values` must stay as they are."""
        for value in values:
            shape = None if value is None else self.shape_of(value)
            if value is not None and shape is not None:
                yield from self.freeze((Axis(value, index) for index in range(len(shape))), code, detail)

    def freeze_node(self, code: FreezeCode, detail: str = "") -> Iterator[Frozen]:
        """Yield that all axes of all operands must stay as they are."""
        return self.freeze_values((*self.node.inputs, *self.node.outputs), code, detail)

    def freeze_settings(self, first: int = 1) -> Iterator[Frozen]:
        """Yield that the inputs from `first` on must stay, which are no data, but lengths, places and axes."""
        return self.freeze_values(self.node.inputs[first:], FreezeCode.SETTINGS)


Relate = Callable[[NodeAxes], Iterator[Relation]]
"""Yields the relations between the axes of a node's operands; raises `Unknowable` where a shape is missing."""
