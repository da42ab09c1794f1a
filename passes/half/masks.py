"""Finds masks: values whose large negative numbers only make the results of a softmax zero, however large they are."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.table import carried_inputs
from onnxslim.ops.traits import Trait, has

from .formats import HalfFormat
from .ranges import Seen, seen_constant
from .table import OpFacts, stands_in


def find_masks(graph: ir.Graph, seen: Mapping[str, Seen], half: HalfFormat, facts: OpFacts) -> set[ir.Value]:
    """Return the values of `graph` that lead into softmax and nowhere else, and may be cut at ``-half.cut``.

    exp(x - max) is 0 in float32 where x is 104 below the largest, so that the size of a mask does not matter while
    it stays far below what it is added to, which must be smaller than a quarter of what is cut at.

    Args:
        graph: The main graph.
        seen: What was seen of its values, by name.
        half: The format.
        facts: What is known of ops.
    """
    masks: set[ir.Value] = set()
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    order = {node: place for place, node in enumerate(graph)}
    values.sort(key=lambda value: order.get(value.producer(), -1), reverse=True)  # type: ignore[arg-type]  # None too
    for value in values:
        uses = value.uses()
        if not uses or value.is_graph_output():
            continue
        if all(use.node in order and _bears(use.node, use.idx, masks, seen, half, facts) for use in uses):
            masks.add(value)
    return masks


def _bears(
    node: ir.Node, index: int, masks: set[ir.Value], seen: Mapping[str, Seen], half: HalfFormat, facts: OpFacts
) -> bool:
    """Whether an input of a node may be cut, `masks` being those behind it."""
    if has(node, Trait.IGNORES_SHIFTS) or stands_in(facts.masks, node, index):
        return True
    if not all(output in masks for output in node.outputs if output.uses()):
        return False
    if has(node, Trait.ADDS):
        return all(_high(value, seen) <= half.cut / 4 for place, value in enumerate(node.inputs) if place != index)
    if index in carried_inputs(node):
        return True
    if has(node, Trait.ABSORBS_ZERO):  # a mask of 0 and 1 times a large negative number
        others = [_range(value, seen) for place, value in enumerate(node.inputs) if place != index]
        return all(known is not None and known.low >= 0 and known.high <= 1 for known in others)
    return False


def _range(value: ir.Value | None, seen: Mapping[str, Seen]) -> Seen | None:
    array = constant(value)
    if array is not None:
        return seen_constant(array) if array.size else None
    return None if value is None else seen.get(value.name or "")


def _high(value: ir.Value | None, seen: Mapping[str, Seen]) -> float:
    known = _range(value, seen)
    return float("inf") if known is None else known.high
