"""Graphs nested in nodes (branches of an If, the body of a Loop), and all graphs and nodes of a model.

Every step of a simplification needs them, and the iterators of onnx_ir take ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

HOLDERS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def nested_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs in the attributes of `node`, without those nested in them."""
    for attribute in node.attributes.data.values():  # the dict takes half the time of the view
        if attribute.type in HOLDERS and not attribute.is_ref():
            yield from _graphs(attribute)


def graphs_within(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield a graph and all graphs nested in it."""
    yield graph
    for node in graph:
        for attribute in node.attributes.data.values():  # inlined `nested_graphs`, to save a generator per node
            if attribute.type in HOLDERS and not attribute.is_ref():
                for inner in _graphs(attribute):
                    yield from graphs_within(inner)


def nodes_within(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of a graph and of all graphs nested in it, outer nodes first."""
    for node in graph:
        yield node
        for inner in nested_graphs(node):
            yield from nodes_within(inner)


def read_values(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values that a node reads, and what the nodes and outputs of graphs nested in it read."""
    yield from (value for value in node.inputs if value is not None)
    for graph in nested_graphs(node):
        yield from graph.outputs
        for inner in graph:
            yield from read_values(inner)


def captured_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values of outer graphs that a graph reads, or those nested in it, as often and in the order as they
    are read."""
    own = {value for inner in graphs_within(graph) for value in values_of(inner)}
    for node in graph:
        yield from (value for value in read_values(node) if value not in own)
    yield from (value for value in graph.outputs if value not in own)


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the inputs, the initializers and the results of the nodes of a graph, not of those nested in it."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def main_graphs(model: ir.Model) -> list[ir.Graph]:
    """Return the graph of a model and all graphs nested in it."""
    return list(graphs_within(model.graph))


def every_graph(model: ir.Model) -> list[ir.Graph]:
    """Return all graphs of a model, including local functions and nested graphs."""
    graphs = main_graphs(model)
    for function in model.functions.values():
        graphs += graphs_within(function.graph)
    return graphs


def count_nodes(model: ir.Model) -> int:
    """Return the number of nodes in the graph of a model and all graphs nested in it."""
    return sum(len(graph) for graph in graphs_within(model.graph))


def _graphs(attribute: ir.Attr) -> Iterator[ir.Graph]:
    if attribute.type is ir.AttributeType.GRAPH:
        yield attribute.as_graph()
    else:
        yield from attribute.as_graphs()
