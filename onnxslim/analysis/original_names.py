"""What nodes were called in the model as it came: users name what is in their file, and fusions rename it.

A node that was fused makes the value that the last of its parts made. From there the original is walked back, as far
as values that the model still has: what lies between went into that node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx_ir as ir


@dataclasses.dataclass(frozen=True)
class Origin:
    """The names, in the model as it came, of what went into one node."""

    nodes: frozenset[str] = frozenset()
    vectors: frozenset[str] = frozenset()
    """Of the weights those with up to one axis: biases, scales, statistics."""
    matrices: frozenset[str] = frozenset()
    """Of the weights those with more."""

    def of_weight(self, rank: int) -> frozenset[str]:
        """Return the names that a weight of this many axes had, and those of its node."""
        return self.nodes | (self.vectors if rank < 2 else self.matrices)


def original_names(model: ir.Model, original: ir.Model) -> Mapping[str, Origin]:
    """Return what went into the nodes of the main graph, by the names of the values that they make."""
    makers: dict[str | None, ir.Node] = {value.name: node for node in original.graph for value in node.outputs}
    present = {value.name for value in model.graph.inputs}
    present |= {value.name for node in model.graph for value in node.outputs}
    found: dict[str, Origin] = {}
    for node in model.graph:
        for output in node.outputs:
            maker = makers.get(output.name)
            if maker is not None and output.name:
                found[output.name] = _origin(maker, makers, present)
    return found


def _origin(last: ir.Node, makers: Mapping[str | None, ir.Node], present: set[str | None]) -> Origin:
    waiting, seen = [last], {last}
    nodes: set[str] = set()
    vectors: set[str] = set()
    matrices: set[str] = set()
    while waiting:
        node = waiting.pop()
        nodes.add(node.name or "")
        for value in node.inputs:
            if value is None or value.name in present:
                continue
            if value.const_value is not None:
                (vectors if value.const_value.shape.rank() < 2 else matrices).add(value.name or "")
            maker = makers.get(value.name)
            if maker is not None and maker not in seen:
                seen.add(maker)
                waiting.append(maker)
    return Origin(frozenset(nodes), frozenset(vectors), frozenset(matrices))
