"""The graphs that lie inside a node: branches of an If, the body of a Loop; and all graphs and nodes of a model.

onnx_ir can list them, too. They are asked for in every step of a simplification, and it takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

HOLDERS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def nested_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that the attributes of `node` hold, not those that lie in them in turn."""
    for attribute in node.attributes.data.values():  # of the dict itself, not of the view that wraps it: half the time
        if attribute.type in HOLDERS and not attribute.is_ref():
            yield from _held(attribute)


def graphs_within(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield a graph, and all that are nested in it."""
    yield graph
    for node in graph:
        for attribute in node.attributes.data.values():  # as `nested_graphs`, which costs a generator for each node
            if attribute.type in HOLDERS and not attribute.is_ref():
                for inner in _held(attribute):
                    yield from graphs_within(inner)


def nodes_within(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of a graph, each before those that are nested in it."""
    for node in graph:
        yield node
        for inner in nested_graphs(node):
            yield from nodes_within(inner)


def main_graphs(model: ir.Model) -> list[ir.Graph]:
    """Return the graph of a model, and all that are nested in it."""
    return list(graphs_within(model.graph))


def every_graph(model: ir.Model) -> list[ir.Graph]:
    """Return all graphs of a model: its own, those of its local functions, and what is nested in either."""
    graphs = main_graphs(model)
    for function in model.functions.values():
        graphs += graphs_within(function.graph)
    return graphs


def count_nodes(model: ir.Model) -> int:
    """Return how many nodes the graph of a model and those nested in it have."""
    return sum(len(graph) for graph in graphs_within(model.graph))


def _held(attribute: ir.Attr) -> Iterator[ir.Graph]:
    if attribute.type is ir.AttributeType.GRAPH:
        yield attribute.as_graph()
    else:
        yield from attribute.as_graphs()
