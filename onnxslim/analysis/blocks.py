"""Blocks of a model: consecutive parts that begin and end at few values, such as the residual blocks of a network.

A value is a cut where nothing else that a layer had a part in is read behind it: what leads around it (a mask, say)
comes from the inputs without any layer. A block ends at the first cut behind a layer; what follows there one by one in
the same shape, an activation or the rounding of it, belongs to the block.

Source: Li et al., "BRECQ: Pushing the limit of post-training quantization by block reconstruction" (ICLR 2021), section
3.2, for blocks as the parts to fit one after the other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence

import onnx_ir as ir

from onnxslim.analysis.specialize import ShapeView
from onnxslim.model.nesting import read_values

WHOLE = math.inf
"""So many layers at least make one block of all."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Nodes that make some values of others that lie before them."""

    nodes: tuple[ir.Node, ...]
    """In the order in which they run."""
    ends: tuple[ir.Value, ...]
    """What they make for those behind: one value at a cut, more where outputs of the model are among them."""
    inputs: tuple[ir.Value, ...]
    """What they read of others, constants left out."""
    stop: int
    """The place in the order behind the last of the nodes."""


class Dataflow:
    """What depends on what in the main graph of a model.

    Args:
        graph: Sorted.
        layers: Its nodes that multiply by weights.
        view: Shapes of its values.
    """

    def __init__(self, graph: ir.Graph, layers: Collection[ir.Node], view: ShapeView) -> None:
        self._graph, self._view = graph, view
        self.layers = frozenset(layers)
        """Its nodes that multiply by weights."""
        self._live: set[ir.Value] = set(graph.inputs)
        self._shaped: set[ir.Value] = set()
        """What a layer had a part in."""
        for node in graph:
            read = list(read_values(node))
            if any(value in self._live for value in read):
                self._live.update(node.outputs)
            if node in self.layers or any(value in self._shaped for value in read):
                self._shaped.update(node.outputs)
        self.order = self._ordered()
        """The nodes: what only makes constants right before it is read, what follows a node alone right behind it."""

    def blocks(self, layers: float, may_end: Callable[[ir.Value], bool] = lambda value: True) -> list[Block]:
        """Return the blocks, in order; together they hold all layers that an output depends on.

        Args:
            layers: How many layers each block has at least, but for the last one. 0: each layer is a block, and ends
                where it ends, whether that is a cut or not.
            may_end: Whether a block may end at a value; none does at integers, such as levels. The last one ends at the
                outputs in any case.
        """
        places = {node: place for place, node in enumerate(self.order)}
        crossing, last_read = dict[ir.Value, None](), dict[ir.Value, int]()
        for node in self.order:
            last_read.update(dict.fromkeys(read_values(node), places[node]))
        found: list[Block] = []
        start = count = 0
        for place, node in enumerate(self.order):
            if place < start:
                continue
            count += node in self.layers
            made = [value for value in node.outputs if value in self._shaped]
            crossing |= dict.fromkeys(made)
            for value in [value for value in crossing if last_read.get(value, -1) <= place]:
                del crossing[value]
            ends = made if layers == 0 and node in self.layers else list(crossing)
            fresh = [value for value in ends if places[_maker(value)] >= start]
            if not (count and count >= layers and len(ends) == len(fresh) == 1):
                continue
            alike = [
                (value, stop)
                for value, stop in self._extended(ends[0], place, places)
                if may_end(value) and not (value.dtype is not None and value.dtype.is_integer())
            ]
            if alike:
                end, stop = alike[-1]
                crossing = dict.fromkeys([end]) | {
                    value: None for value in crossing if last_read.get(value, -1) >= stop
                }
                found.append(self._block(start, stop, [end]))
                start, count = stop, 0
        if count:
            found.append(self._block(start, len(self.order), []))
        return found

    def _extended(self, value: ir.Value, place: int, places: dict[ir.Node, int]) -> Iterator[tuple[ir.Value, int]]:
        """Yield a value, and what is made of it alone in the same shape, each with the place behind."""
        yield value, place + 1
        while (node := self._follower(value)) is not None:
            value, place = node.outputs[0], max(place, places[node])
            yield value, place + 1

    def _follower(self, value: ir.Value) -> ir.Node | None:
        """Return the node that alone reads a value, and nothing else that is live, and keeps its shape."""
        readers = {use.node for use in value.uses()}
        if len(readers) != 1 or value.is_graph_output():
            return None
        (node,) = readers
        shape = self._view.shape(value)
        alone = [other for other in read_values(node) if other in self._live] == [value] and len(node.outputs) == 1
        if not alone or node in self.layers or node.graph is not self._graph:
            return None
        return node if shape is not None and self._view.shape(node.outputs[0]) == shape else None

    def _block(self, start: int, stop: int, ends: Sequence[ir.Value]) -> Block:
        made = {value for node in self.order[start:stop] for value in node.outputs}
        outputs = [value for value in self._graph.outputs if value in made and value in self._shaped]
        ends = list(dict.fromkeys([*ends, *outputs]))
        needed, inputs = dict[ir.Node, None](), dict[ir.Value, None]()
        waiting = list(ends)
        while waiting:
            value = waiting.pop()
            node = value.producer()
            if value in self._live and value not in made:
                inputs[value] = None
            elif node is not None and node not in needed:
                needed[node] = None
                waiting += read_values(node)
        nodes = tuple(node for node in self.order if node in needed)
        order = {value: place for place, value in enumerate([*self._graph.inputs, *_made(self.order)])}
        return Block(nodes, tuple(ends), tuple(sorted(inputs, key=order.__getitem__)), stop)

    def _ordered(self) -> list[ir.Node]:
        order: dict[ir.Node, None] = {}

        def place(node: ir.Node) -> None:
            waiting = [node]
            while waiting:  # first the constants that it reads
                current = waiting[-1]
                makers = [value.producer() for value in read_values(current) if value not in self._live]
                missing = [maker for maker in makers if maker is not None and maker not in order]
                if missing:
                    waiting += missing
                else:
                    order[waiting.pop()] = None

        for node in self._graph:
            following: ir.Node | None = node if any(value in self._live for value in node.outputs) else None
            while following is not None and following not in order:
                place(following)
                following = self._follower(following.outputs[0]) if len(following.outputs) == 1 else None
        for node in self._graph:
            if node not in order:
                order[node] = None
        return list(order)


def _made(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    return [value for node in nodes for value in node.outputs]


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None, "a layer had a part in it"
    return node
