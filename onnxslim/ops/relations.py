"""Relations between the axes of a node's operands, as data: which are one, which are products, which are frozen."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Union

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.ops.binding import Dimensions, ShapeOf, dimensions

Indices = npt.NDArray[np.int64]


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


class FreezeCode(str, enum.Enum):
    """Why an axis, or some of its indices, must stay as they are."""

    UNKNOWN_SHAPE = "unknown-shape"
    UNKNOWN_SIZE = "unknown-size"
    NO_COMMON_FACTORS = "no-common-factors"
    NO_SIGNATURE = "no-signature"
    UNFOLLOWED = "unfollowed"
    GRAPH_INPUT = "graph-input"
    GRAPH_OUTPUT = "graph-output"
    CAPTURED = "captured"
    COMPUTED_SHAPE = "computed-shape"
    COMPUTED_SIZES = "computed-sizes"
    COMPUTED_AXES = "computed-axes"
    COMPUTED_AXIS = "computed-axis"
    COMPUTED_REPEATS = "computed-repeats"
    COMPUTED_PLACES = "computed-places"
    LOOKED_UP = "looked-up"
    SCATTERED = "scattered"
    PADDED = "padded"
    ORDERED = "ordered"
    BLOCKS = "blocks"
    ANSWERED = "answered"
    SIZE_READ = "size-read"
    PLACES_IN_SHAPE = "places-in-shape"
    SETTINGS = "settings"
    RESIZED = "resized"
    REPEATED = "repeated"
    FIXED_FACTOR = "fixed-factor"
    READ_AS_WHOLE = "read-as-whole"
    SINGLE = "single"
    CUT_ACROSS = "cut-across"


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

TEXTS = {
    FreezeCode.UNKNOWN_SHAPE: "{node}: a shape is not known before the model runs",
    FreezeCode.UNKNOWN_SIZE: "{node}: a size is not known before the model runs",
    FreezeCode.NO_COMMON_FACTORS: "{node}: axes of {detail}",
    FreezeCode.NO_SIGNATURE: "{node} has no axis signature that fits",
    FreezeCode.UNFOLLOWED: "{node}: {detail}",
    FreezeCode.GRAPH_INPUT: "graph input {detail}",
    FreezeCode.GRAPH_OUTPUT: "graph output {detail}",
    FreezeCode.CAPTURED: "the nested graph of {node} reads it",
    FreezeCode.COMPUTED_SHAPE: "{node}: its shape is computed when the model runs",
    FreezeCode.COMPUTED_SIZES: "{node}: its sizes are computed when the model runs",
    FreezeCode.COMPUTED_AXES: "{node}: its axes are computed when the model runs",
    FreezeCode.COMPUTED_AXIS: "{node}: its axis is computed when the model runs",
    FreezeCode.COMPUTED_REPEATS: "{node}: its repeats are computed when the model runs",
    FreezeCode.COMPUTED_PLACES: "{node} takes places that are computed when the model runs",
    FreezeCode.LOOKED_UP: "{node} looks places up in it",
    FreezeCode.SCATTERED: "{node} puts places into it",
    FreezeCode.PADDED: "{node} pads it, and not with a constant number of constants",
    FreezeCode.ORDERED: "{node}: places along it have an order",
    FreezeCode.BLOCKS: "{node} scales blocks",
    FreezeCode.ANSWERED: "{node} answers with places in it",
    FreezeCode.SIZE_READ: "{node}: its size is read when the model runs",
    FreezeCode.PLACES_IN_SHAPE: "{node}: places in a shape",
    FreezeCode.SETTINGS: "{node} reads it as places or lengths",
    FreezeCode.RESIZED: "{node} resizes it",
    FreezeCode.REPEATED: "{node} repeats so often",
    FreezeCode.FIXED_FACTOR: "{node}: no channels, but places or gates",
    FreezeCode.READ_AS_WHOLE: "{node} reads it as a whole",
    FreezeCode.SINGLE: "an axis of size 1",
    FreezeCode.CUT_ACROSS: "a Concat, Split or reshape cuts across the factors of this axis",
}
"""What each code says; ``{node}`` is the node, ``{detail}`` a name, or what the signature says."""


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
        return TEXTS[self.code].format(node=node, detail=self.detail)

    @property
    def kind(self) -> str:
        """The reason in words that name nothing of this model but the op."""
        node = "" if self.node is None else self.node.op_type
        named = self.code in (FreezeCode.GRAPH_INPUT, FreezeCode.GRAPH_OUTPUT)
        return TEXTS[self.code].format(node=node, detail="" if named else self.detail).rstrip()


@dataclasses.dataclass(frozen=True, slots=True)
class Equal:
    """Two axes are one: place i of the one is place i of the other."""

    first: AnyAxis
    second: AnyAxis


@dataclasses.dataclass(frozen=True, slots=True)
class Factored:
    """An axis is the product of factors, the slowest first."""

    whole: Axis
    factors: tuple[AnyAxis, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SameElements:
    """Two runs of axes hold the same elements in the same order, as a reshape does."""

    first: tuple[Axis, ...]
    second: tuple[Axis, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """`first[first_indices]` and `second[second_indices]` are pairwise the same places."""

    first: Axis
    first_indices: Indices
    second: Axis
    second_indices: Indices


@dataclasses.dataclass(frozen=True, slots=True)
class Mixes:
    """The op mixes along an axis (norms, means): cutting it is sound, but not exact."""

    axis: AnyAxis


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    """An axis must stay as it is."""

    axis: AnyAxis
    why: Freeze


Relation = Union[Equal, Factored, SameElements, Pairs, Mixes, Frozen]  # noqa: UP007  # evaluated, on Python 3.10 too


class UnknownShape(Exception):
    """A relation needs a shape that is not known."""


class NodeAxes:
    """A node and the axes of its operands, with their sizes as far as they are known.

    Args:
        node: The node.
        shape_of: The shapes of its values; None for each size that is symbolic.
    """

    __slots__ = ("node", "shape_of")

    def __init__(self, node: ir.Node, shape_of: ShapeOf = dimensions) -> None:
        self.node = node
        self.shape_of = shape_of

    def shape(self, value: ir.Value | None) -> Dimensions:
        """Return the shape of a value.

        Raises:
            UnknownShape: It is missing, or its rank is not known.
        """
        shape = None if value is None else self.shape_of(value)
        if shape is None:
            raise UnknownShape
        return shape

    def axes(self, value: ir.Value | None) -> tuple[Axis, ...]:
        """Return the axes of a value.

        Raises:
            UnknownShape: It is missing, or its rank is not known.
        """
        rank = len(self.shape(value))
        assert value is not None
        return tuple(Axis(value, position) for position in range(rank))

    def source_and_result(self) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """Return the axes of the first input and of the first output.

        Raises:
            UnknownShape: The rank of one of them is not known.
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
"""Yields the relations between the axes of a node's operands; raises `UnknownShape` where it needs one."""


def describe(node: ir.Node) -> str:
    """Return what messages call the node: its op and its name, or that of its first output."""
    name = node.name or next((value.name for value in node.outputs if value.name), None)
    return f"{node.op_type} {name}"
