"""What an input means, deduced from the graph: which inputs are indices, and into what; which are masks."""

from __future__ import annotations

import re

import onnx_ir as ir

from onnxslim.ops.op import IndexInto
from onnxslim.ops.table import carried_inputs, index_into
from onnxslim.ops.traits import Trait, has

ONES = re.compile(r"mask", re.IGNORECASE)
"""Names of masks: 1 lets everything through."""
RATE = re.compile(r"^sr$|sampl\w*_?rate", re.IGNORECASE)
"""Names of sampling rates, in Hz."""
ZEROS = re.compile(r"token_type|segment_id", re.IGNORECASE)
"""Names of segment numbers: a text of one segment is all zeros."""


def index_bound(value: ir.Value) -> int | None:
    """Return the number that values of `value` must stay below, None where it is not used as an index.

    Follows the value through ops that carry its elements (`carried_inputs`), into nested subgraphs too.
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
            into = index_into(use.node, use.idx)
            bound = None if into is None else _bound(use.node, into)
            bounds += [bound] if bound is not None else []
            if use.idx in carried_inputs(use.node):
                waiting.extend(use.node.outputs)
    return min(bounds, default=None)


def _bound(node: ir.Node, into: IndexInto) -> int | None:
    data = node.inputs[into.data]
    if into.by_value:
        constant = None if data is None else data.const_value
        return int(constant.numpy().reshape(-1)[0]) if constant is not None and constant.size else None
    shape = _shape(data)
    if not shape:
        return None
    axis = into.axis
    if into.attribute is not None and into.attribute in node.attributes:
        axis = node.attributes[into.attribute].as_int()
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
        stores = (Trait.DEQUANTIZES, Trait.IDENTITY, Trait.CONVERTS)
        if producer is None or not any(has(producer, trait) for trait in stores):
            return None
        value = producer.inputs[0]
    return None
