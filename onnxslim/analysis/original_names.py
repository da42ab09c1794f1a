"""The names that nodes had in the model as it came: users name nodes of their file, and fusions rename them.

A node that was fused makes the value that the last of its parts made. From there the original is walked back, as far
as values that the model still has: what lies between went into that node. A node that makes no value of the original
belongs to those that the next such values come from.
"""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from onnxslim.model.edit import same_values
from onnxslim.model.nesting import nodes_within


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


class OriginalNames:
    """The origins of the nodes of the main graph of a model.

    Args:
        model: The model as it is now. Nodes that are made later are known by what they feed.
        original: The model as it came.
    """

    def __init__(self, model: ir.Model, original: ir.Model) -> None:
        self._makers = {value.name or "": node for node in nodes_within(original.graph) for value in node.outputs}
        self._same = same_values(model.graph)
        present = {value.name or "" for value in model.graph.inputs}
        present |= {value.name or "" for node in model.graph for value in node.outputs}
        self._present = present | {same for name in present for same in self._same.get(name, ())}
        self._origins: dict[str, Origin] = {}

    def of_node(self, node: ir.Node) -> Origin:
        """Return what went into a node of the model."""
        origins = [self._origin(name) for name in self._ends(node)]
        return Origin(
            frozenset().union(*(origin.nodes for origin in origins)),
            frozenset().union(*(origin.vectors for origin in origins)),
            frozenset().union(*(origin.matrices for origin in origins)),
        )

    def _ends(self, node: ir.Node) -> set[str]:
        """Return the values of the original that a node makes, or else those next behind it."""
        ends: set[str] = set()
        waiting, seen = [node], {node}
        while waiting:
            current = waiting.pop()
            made = {output.name or "" for output in current.outputs}
            own = (made | {name for output in made for name in self._same.get(output, ())}) & self._makers.keys()
            ends |= own
            if not own:
                readers = {use.node for output in current.outputs for use in output.uses()} - seen
                seen |= readers
                waiting += readers
        return ends

    def _origin(self, name: str) -> Origin:
        if name not in self._origins:
            self._origins[name] = self._walk(self._makers[name])
        return self._origins[name]

    def _walk(self, last: ir.Node) -> Origin:
        waiting, seen = [last], {last}
        nodes, vectors, matrices = set[str](), set[str](), set[str]()
        while waiting:
            node = waiting.pop()
            nodes.add(node.name or "")
            for value in node.inputs:
                if value is None or value.name in self._present:
                    continue
                if value.const_value is not None:
                    (vectors if value.const_value.shape.rank() < 2 else matrices).add(value.name or "")
                names = {value.name or "", *self._same.get(value.name or "", ())}
                makers = {self._makers[name] for name in names & self._makers.keys()} - seen
                waiting += makers
                seen |= makers
        return Origin(frozenset(nodes), frozenset(vectors), frozenset(matrices))
