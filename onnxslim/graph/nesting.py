"""The graphs that lie inside a node: branches of an If, the body of a Loop."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def nested_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that the attributes of `node` hold, not those that lie in them in turn."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
