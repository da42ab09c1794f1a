"""The graphs that lie inside a node: branches of an If, the body of a Loop; and all graphs of a model.

onnx_ir can list the graphs of a model, too. It is asked in every step of a simplification, and takes twenty times as
long.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

HOLDERS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def nested_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that the attributes of `node` hold, not those that lie in them in turn."""
    for attribute in node.attributes.values():
        if attribute.type not in HOLDERS or attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        else:
            yield from attribute.as_graphs()


def graphs_within(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield a graph, and all that are nested in it."""
    yield graph
    for node in graph:
        if node.attributes:
            for inner in nested_graphs(node):
                yield from graphs_within(inner)


def main_graphs(model: ir.Model) -> list[ir.Graph]:
    """Return the graph of a model, and all that are nested in it."""
    return list(graphs_within(model.graph))


def every_graph(model: ir.Model) -> list[ir.Graph]:
    """Return all graphs of a model: its own, those of its local functions, and what is nested in either."""
    graphs = main_graphs(model)
    for function in model.functions.values():
        graphs += graphs_within(function.graph)
    return graphs
