"""Which channels belong together: an index that is cut takes every index with the same label with it.

The axis signatures say how the axes of each op belong together (`ops.axes`), `relations` collects what they say for a
model, `labels` solves it. What comes out is exact: permuting the channels of a group wherever they occur leaves the
outputs of the model as they were.

Precedents: dependency graphs of Torch-Pruning (Fang et al., "DepGraph: Towards Any Structural Pruning", arXiv
2301.12900); the notation of factors is that of Shardy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.labels import Labels, solve
from onnxslim.arrays import Indices, Mask
from onnxslim.model.nesting import nested_graphs, nodes_within
from onnxslim.ops.binding import BoundSignature, FactorKey
from onnxslim.ops.relations import Freeze, FreezeCode, NodeAxes
from onnxslim.ops.table import relations_of


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels of one kind: each may be cut by itself, and takes the same places of the same weights with it."""

    name: str
    """The first weight that has them."""
    roots: Indices
    """The labels of its channels."""
    width: int
    """How many places of one axis go with one label: 1 as a rule, the number of heads for a place within heads."""
    mixed: bool = False
    """An op mixes along them (a norm, a mean): what is left of the others changes when one goes."""


@dataclasses.dataclass(frozen=True)
class FrozenAxis:
    """Channels of a weight that cannot be cut."""

    name: str
    """The weight."""
    axis: int
    why: Freeze
    size: int
    """How long the axis is."""


@dataclasses.dataclass(frozen=True)
class Coupling:
    """How the axes of all values of a model belong together."""

    relations: AxisRelations
    labels: Labels
    fitted: Mapping[ir.Node, tuple[BoundSignature, Mapping[FactorKey, int]]]
    """For each node with a row of its own: the row, and the axis that each of its factors is."""

    def of(self, value: ir.Value, axis: int) -> Indices | None:
        """Return the labels along an axis of `value`, shape [size]; None where it is symbolic or was never seen."""
        axes = self.relations.values().get(value)
        return None if axes is None else self.of_axis(axes[axis])

    def of_axis(self, axis: int) -> Indices | None:
        """Return the labels along an axis of the relations, shape [size]; None where it is symbolic."""
        axis = self.relations.find(axis)
        size = self.relations.sizes[axis]
        first = self.labels.start.get(axis)
        return None if size is None or first is None else first + np.arange(size)

    def kept(self, value: ir.Value, axis: int, gone: Mask) -> Indices | None:
        """Return the places along an axis of `value` that stay when the labels `gone` go; None where it is symbolic."""
        labels = self.of(value, axis)
        return None if labels is None else np.flatnonzero(~gone[labels])

    def weights(self) -> Iterator[tuple[ir.Value, tuple[int, ...]]]:
        """Yield the initializers that have axes, with these."""
        for value, axes in self.relations.values().items():
            if value.is_initializer() and value.const_value is not None and not value.is_graph_input():
                yield value, axes


def couple(model: ir.Model) -> Coupling:
    """Return how the axes of all values of the main graph belong together.

    Graph inputs and outputs are frozen, and so is what an op without signature reads or makes, and what nested graphs
    read. Shapes must be known (`onnxslim.analysis.shapes.infer_shapes`); what is not known is frozen.
    """
    relations = AxisRelations()
    for value in model.graph.inputs:
        relations.freeze_value(value, Freeze(FreezeCode.GRAPH_INPUT, detail=value.name or ""))
    fitted = relate(model.graph, relations)
    for value in model.graph.outputs:
        relations.freeze_value(value, Freeze(FreezeCode.GRAPH_OUTPUT, detail=value.name or ""))
    return Coupling(relations, solve(relations), fitted)


def relate(graph: ir.Graph, relations: AxisRelations) -> dict[ir.Node, tuple[BoundSignature, Mapping[FactorKey, int]]]:
    """Write down in `relations` what every node of `graph` says about axes; return for each node with a row of its own
    the row, and the axis that each of its factors is."""
    fitted: dict[ir.Node, tuple[BoundSignature, Mapping[FactorKey, int]]] = {}
    for node in graph:
        for value in captured(node):
            relations.freeze_value(value, Freeze(FreezeCode.CAPTURED, node))
        found, related = relations_of(NodeAxes(node, relations.shape))
        factors = relations.add(node, related)
        if found is not None:
            fitted[node] = (found, factors)
    return fitted


def captured(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values that the nested graphs of `node` read, of whatever graph."""
    for graph in nested_graphs(node):
        yield from (value for value in graph.outputs if value.graph is not graph)
        for inner in nodes_within(graph):
            yield from (value for value in inner.inputs if value is not None and value.graph is not graph)


def groups(coupling: Coupling) -> tuple[ChannelGroup, ...]:
    """Return the groups of channels that may be cut, each channel in one of them.

    Channels are of one group when they lie in the same axes equally often.
    """
    labels = coupling.labels
    # Rows of (base label, axis, how often it lies there), for what can be cut by itself.
    bases: list[Indices] = []
    for axis, first in labels.start.items():
        size = coupling.relations.sizes[axis] or 0
        free = labels.bases(first + np.arange(size))[1]
        if len(free):
            unique, counts = np.unique(free, return_counts=True)
            bases.append(np.stack([unique, np.full(len(unique), axis), counts], axis=1))
    if not bases:
        return ()
    rows = np.concatenate(bases)
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    roots, begin = np.unique(rows[:, 0], return_index=True)
    together: dict[bytes, list[int]] = {}
    for base, block in zip(roots.tolist(), np.split(rows[:, 1:], begin[1:]), strict=True):
        together.setdefault(block.tobytes(), []).append(base)
    heads = np.array(sorted(members[0] for members in together.values()), np.int64)
    found: dict[int, tuple[str, int, int]] = {}
    for value, axes in coupling.weights():
        for axis in axes:
            own = coupling.of_axis(axis)
            if own is None:
                continue
            counted, counts = np.unique(labels.bases(own)[1], return_counts=True)
            wanted = np.isin(counted, heads)
            for label, count in zip(counted[wanted].tolist(), counts[wanted].tolist(), strict=True):
                name, rank, width = found.get(label, ("", 0, count))
                if min(len(axes), 2) > rank:
                    name, rank = value.name or "", min(len(axes), 2)
                found[label] = (name, rank, min(width, count))
    return tuple(
        ChannelGroup(found[members[0]][0], np.array(members), found[members[0]][2], bool(labels.mixed[members].any()))
        for members in together.values()
        if members[0] in found
    )


def frozen(coupling: Coupling) -> tuple[FrozenAxis, ...]:
    """Return the channels of weights that cannot be cut for a reason worth telling, one entry for each reason."""
    labels = coupling.labels
    result: dict[tuple[int, str], FrozenAxis] = {}
    for value, axes in coupling.weights():
        for index, axis in enumerate(axes):
            own = coupling.of_axis(axis)
            if own is None or len(own) < 2:
                continue
            reasons = labels.reason[labels.root[own]]
            if (reasons < 0).any():
                continue
            why = labels.freezes[int(reasons.min())]
            if not why.inherent:
                key = (coupling.relations.find(axis), why.reason)
                result.setdefault(key, FrozenAxis(value.name or "", index, why, len(own)))
    return tuple(result.values())
