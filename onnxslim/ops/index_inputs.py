"""Inputs that hold indices, and what they index; and the inputs whose elements reach a result as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

from onnxslim.ops.signatures import OpName
from onnxslim.ops.traits import Trait, has


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


_INDICES: Mapping[OpName, Mapping[int, IndexInto]] = MappingProxyType(
    {
        ("", "Gather"): {1: IndexInto(0, 0, "axis")},
        ("", "GatherElements"): {1: IndexInto(0, 0, "axis")},
        ("", "GatherND"): {1: IndexInto(0)},
        ("", "ScatterElements"): {1: IndexInto(0, 0, "axis")},
        ("", "ScatterND"): {1: IndexInto(0)},
        ("", "OneHot"): {0: IndexInto(1, by_value=True)},
        ("ai.onnx.ml", "ArrayFeatureExtractor"): {1: IndexInto(0, -1)},
        ("com.microsoft", "EmbedLayerNormalization"): {0: IndexInto(2, 0), 1: IndexInto(3, 0)},
        ("com.microsoft", "GatherBlockQuantized"): {1: IndexInto(0, 0, "gather_axis")},
    }
)


def index_into(node: ir.Node, index: int) -> IndexInto | None:
    """Return what the input `index` of a node indexes; None where it holds no indices."""
    return _INDICES.get((node.domain, node.op_type), {}).get(index)


def carried_inputs(node: ir.Node) -> Sequence[int]:
    """Return the inputs whose elements reach a result as they are, if not all, then some: an index stays an index."""
    if (node.domain, node.op_type) == ("", "Where"):
        return (1, 2)
    return (0,) if has(node, Trait.CARRIES) else moved_inputs(node)


def moved_inputs(node: ir.Node) -> Sequence[int]:
    """Return the inputs that the elements of the results are elements of; none where the node computes new ones."""
    if has(node, Trait.JOINING):
        return range(len(node.inputs))
    return (0,) if has(node, Trait.MOVEMENT) else ()
