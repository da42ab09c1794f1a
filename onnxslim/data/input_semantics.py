"""What an input means, deduced from the graph: which inputs are indices, and into what; which are masks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir


@dataclasses.dataclass(frozen=True)
class IndexInto:
    """An input of an op that holds indices, which must stay below the size of an axis of another input."""

    data: int
    """The input that is indexed."""
    axis: int | None = None
    """Which of its axes; None: any of them, so that the smallest bounds."""
    attribute: str | None = None
    """The attribute that names the axis, where one does (`axis` is its default)."""
    by_value: bool = False
    """The value of `data` is itself the bound, not its size."""


INDICES: Mapping[tuple[str, int], IndexInto] = MappingProxyType(
    {
        ("Gather", 1): IndexInto(0, 0, "axis"),
        ("GatherElements", 1): IndexInto(0, 0, "axis"),
        ("GatherND", 1): IndexInto(0),
        ("ScatterElements", 1): IndexInto(0, 0, "axis"),
        ("ScatterND", 1): IndexInto(0),
        ("OneHot", 0): IndexInto(1, by_value=True),
        ("ArrayFeatureExtractor", 1): IndexInto(0, -1),
        ("EmbedLayerNormalization", 0): IndexInto(2, 0),
        ("EmbedLayerNormalization", 1): IndexInto(3, 0),
        ("GatherBlockQuantized", 1): IndexInto(0, 0, "gather_axis"),
    }
)
"""(op, input) -> what it indexes: ONNX's operators, and those of ONNX Runtime's com.microsoft domain."""

CARRIERS: frozenset[tuple[str, int]] = frozenset(
    {
        *((op, 0) for op in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand")),
        *((op, 0) for op in ("Slice", "Split", "Tile", "Pad", "Gather", "GatherElements", "GatherND", "Clip")),
        *(("Concat", index) for index in range(8)),
        *(("Where", index) for index in (1, 2)),
    }
)
"""(op, input) whose values reach the output as they are, if not all, then some: an index stays an index."""

STORAGE: frozenset[str] = frozenset({"DequantizeLinear", "Identity", "Cast"})
"""Ops that change how data is stored, not its shape."""

ONES = re.compile(r"mask", re.IGNORECASE)
"""Names of masks: 1 lets everything through."""
RATE = re.compile(r"^sr$|sampl\w*_?rate", re.IGNORECASE)
"""Names of sampling rates, in Hz."""
ZEROS = re.compile(r"token_type|segment_id", re.IGNORECASE)
"""Names of segment numbers: a text of one segment is all zeros."""


def index_bound(value: ir.Value) -> int | None:
    """Return the number that values of `value` must stay below, None where it is not used as an index.

    Follows the value through the ops of `CARRIERS`, into nested subgraphs too.
    """
    bounds: list[int] = []
    seen: set[ir.Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for use in current.uses():
            key = (use.node.op_type, use.idx)
            if key in INDICES:
                bound = _bound(use.node, INDICES[key])
                bounds += [bound] if bound is not None else []
            if key in CARRIERS:
                waiting.extend(use.node.outputs)
    return min(bounds, default=None)


def _bound(node: ir.Node, rule: IndexInto) -> int | None:
    data = node.inputs[rule.data]
    if rule.by_value:
        constant = None if data is None else data.const_value
        return int(constant.numpy().reshape(-1)[0]) if constant is not None and constant.size else None
    shape = _shape(data)
    if not shape:
        return None
    axis = rule.axis
    if rule.attribute is not None and rule.attribute in node.attributes:
        axis = node.attributes[rule.attribute].as_int()
    sizes = shape if axis is None else shape[axis : axis + 1] if axis >= 0 else (shape[axis],)
    return min((size for size in sizes if isinstance(size, int)), default=None)


def _shape(value: ir.Value | None) -> tuple[object, ...] | None:
    """Return the shape of `value`, looked up behind ops that only store it otherwise."""
    while value is not None:
        if value.const_value is not None:
            return tuple(value.const_value.shape)
        if value.shape is not None:
            return tuple(value.shape)
        producer = value.producer()
        if producer is None or producer.op_type not in STORAGE:
            return None
        value = producer.inputs[0]
    return None
