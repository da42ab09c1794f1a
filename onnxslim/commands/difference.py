"""What changed between two models, as text by region, whatever it was that changed it.

Values that keep their names on both sides are the anchors. A node is unchanged where the other model has one with the
same op, attributes, inputs, outputs and constants. What is left falls into regions: nodes that make the same anchor, or
that are joined by a value that only one side has. Regions that are equal up to names are told once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Hashable, Sequence
from typing import Annotated

import networkx as nx
import numpy as np
import onnx_ir as ir

from onnxslim.commands.onnx_text import node_text, numbering
from onnxslim.model.nesting import read_values

BEFORE, AFTER = 0, 1


@dataclasses.dataclass(frozen=True)
class RewrittenRegion:
    """Nodes that belong together and became others."""

    before: Annotated[tuple[str, ...], "what the nodes were, a line each"]
    after: Annotated[tuple[str, ...], "what they became"]
    times: Annotated[int, "how often this change occurs, up to names"] = 1
    constants: Annotated[tuple[str, ...], "constants that keep their names and hold other numbers"] = ()


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two models, compared by their graphs."""

    before: Annotated[str, "path or name of the one model"]
    after: Annotated[str, "path or name of the other"]
    unchanged: Annotated[int, "nodes that both have"]
    regions: Annotated[tuple[RewrittenRegion, ...], "what differs, in the order of the graph"]


@dataclasses.dataclass
class _ModelNodes:
    """The nodes of one model that the other has not."""

    values: set[str]
    """Names of what its nodes make."""
    nodes: list[ir.Node]
    places: dict[ir.Node, int]


def compare_graphs(before: ir.Model, after: ir.Model, names: tuple[str, str] = ("before", "after")) -> Difference:
    """Compare two models in canonical form, node by node; `names` is what they are called in the header."""
    digests: dict[int, str] = {}
    keys = [[_key(node, digests) for node in model.graph] for model in (before, after)]
    common = set(keys[BEFORE]) & set(keys[AFTER])
    sides = []
    for model, own in zip((before, after), keys, strict=True):
        graph = model.graph
        differing = [node for node, key in zip(graph, own, strict=True) if key not in common]
        made = {output.name or "" for node in graph for output in node.outputs} - {""}
        sides.append(_ModelNodes(made, differing, {node: place for place, node in enumerate(graph)}))
    regions: dict[tuple[tuple[str, ...], ...], RewrittenRegion] = {}
    for pair in _regions(sides[BEFORE], sides[AFTER]):
        naming = numbering()
        anonymous = tuple(tuple(node_text(node, naming) for node in nodes) for nodes in pair)
        found = regions.get(anonymous)
        if found is not None:
            regions[anonymous] = dataclasses.replace(found, times=found.times + 1)
            continue
        one, other = (tuple(node_text(node) for node in nodes) for nodes in pair)
        regions[anonymous] = RewrittenRegion(one, other, 1, _changed_constants(pair, digests))
    return Difference(*names, unchanged=len(before.graph) - len(sides[BEFORE].nodes), regions=tuple(regions.values()))


def _key(node: ir.Node, digests: dict[int, str]) -> Hashable:
    """Return what two nodes have in common that are the same; names of nodes do not count."""
    inputs = tuple(
        None if value is None else (value.name if value.const_value is None else _digest(value.const_value, digests))
        for value in node.inputs
    )
    attributes = tuple((name, _attribute_key(node.attributes[name], digests)) for name in sorted(node.attributes))
    outputs = tuple(output.name for output in node.outputs)
    return node.domain, node.op_type, node.overload, attributes, inputs, outputs


def _attribute_key(attribute: ir.Attr, digests: dict[int, str]) -> Hashable:
    graphs = [attribute.value] if isinstance(attribute.value, ir.Graph) else []
    if isinstance(attribute.value, list | tuple):
        graphs = [item for item in attribute.value if isinstance(item, ir.Graph)]
    if graphs:
        return tuple(
            (tuple(_key(node, digests) for node in graph), tuple(value.name for value in graph.outputs))
            for graph in graphs
        )
    if isinstance(attribute.value, ir.TensorProtocol):
        return _digest(attribute.value, digests)
    return str(attribute.type), str(attribute.ref_attr_name if attribute.is_ref() else attribute.value)


def _digest(tensor: ir.TensorProtocol, digests: dict[int, str]) -> str:
    """Return a hash of what a tensor holds. Each is read once; one that is mapped is not copied."""
    if id(tensor) not in digests:
        array = np.ascontiguousarray(tensor.numpy())
        content = str(array.tolist()).encode() if array.dtype == object else array.reshape(-1).view(np.uint8).data
        words = f"{tensor.dtype} {list(tensor.shape)} ".encode()
        digests[id(tensor)] = hashlib.blake2b(content, digest_size=16, key=hashlib.sha256(words).digest()).hexdigest()
    return digests[id(tensor)]


def _regions(before: _ModelNodes, after: _ModelNodes) -> list[tuple[list[ir.Node], list[ir.Node]]]:
    """Return the nodes of each region on both sides, in the order of the graphs."""
    anchors = before.values & after.values
    links: nx.Graph[Hashable] = nx.Graph()
    for index, side in ((BEFORE, before), (AFTER, after)):
        links.add_nodes_from(side.nodes)
        for node in side.nodes:
            read = {value.name for value in read_values(node)} & side.values - anchors
            made = {output.name for output in node.outputs if output.name}
            links.add_edges_from((node, name if name in anchors else (index, name)) for name in read | made)
    parts = {member: number for number, part in enumerate(nx.connected_components(links)) for member in part}
    found: dict[int, tuple[list[ir.Node], list[ir.Node]]] = {}
    for index, side in ((BEFORE, before), (AFTER, after)):
        for node in side.nodes:
            found.setdefault(parts[node], ([], []))[index].append(node)
    return sorted(found.values(), key=lambda pair: min(_place(pair[BEFORE], before), _place(pair[AFTER], after)))


def _place(nodes: Sequence[ir.Node], side: _ModelNodes) -> float:
    return min((side.places[node] / max(len(side.places), 1) for node in nodes), default=float("inf"))


def _changed_constants(pair: tuple[list[ir.Node], list[ir.Node]], digests: dict[int, str]) -> tuple[str, ...]:
    constants = [
        {
            value.name: _digest(value.const_value, digests)
            for node in nodes
            for value in node.inputs
            if value is not None and value.const_value is not None and value.name
        }
        for nodes in pair
    ]
    return tuple(name for name, digest in constants[BEFORE].items() if constants[AFTER].get(name, digest) != digest)
