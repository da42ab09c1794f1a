"""Parts of two graphs that belong together: what each does between the values that both have by name.

Passes keep the names of values where they keep the values. What lies before such a value, back to the ones before it,
is one layer in the one graph and what became of it in the other: a convolution with its normalisation and activation,
and the convolution, or the pair of factors, or the quantized form that took their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import onnx_ir as ir

from onnxslim.model.nesting import read_values


@dataclasses.dataclass(frozen=True)
class Region:
    """What makes one value, in two graphs."""

    value: str
    """The name of the value; empty for nodes of which nothing is left in the other graph."""
    before: tuple[ir.Node, ...]
    after: tuple[ir.Node, ...]


def common_regions(before: ir.Model, after: ir.Model) -> tuple[Region, ...]:
    """Return the regions of the main graphs of two models, in the order of the first; each node is in one of them."""
    common = _made(before) & _made(after)
    sides = [grouped(model.graph, common) for model in (before, after)]
    places = {node: place for model in (after, before) for place, node in enumerate(model.graph)}
    pairs = [
        Region(name, *(tuple(side.get(name, ())) for side in sides)) for name in dict.fromkeys([*sides[0], *sides[1]])
    ]
    return tuple(sorted(pairs, key=lambda pair: places[(pair.before or pair.after)[-1]]))


def grouped(graph: ir.Graph, values: Collection[str]) -> dict[str, list[ir.Node]]:
    """Return the nodes of a graph by the first of `values` that lies behind them; by "" where none does.

    A node that makes one of `values` belongs to that one; of several behind it the one that is made first counts.
    """
    owners: dict[ir.Node, tuple[int, str]] = {}
    nodes = list(graph)
    readers: dict[ir.Value, tuple[int, str]] = {}
    for place in range(len(nodes) - 1, -1, -1):
        node = nodes[place]
        own = next((output.name for output in node.outputs if output.name and output.name in values), None)
        behind = [readers[output] for output in node.outputs if output in readers]
        owners[node] = (place, own) if own is not None else min(behind, default=(len(nodes), ""))
        for value in read_values(node):
            readers[value] = min(readers.get(value, owners[node]), owners[node])
    groups: dict[str, list[ir.Node]] = {}
    for node in nodes:
        groups.setdefault(owners[node][1], []).append(node)
    return groups


def _made(model: ir.Model) -> set[str]:
    return {output.name for node in model.graph for output in node.outputs if output.name}
