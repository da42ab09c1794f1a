"""Takes Identity nodes out of a graph where no name of an output changes, and puts values in the place of nodes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim.model.edit import take_over
from onnxslim.ops.traits import Trait, has


def eliminate_identity(node: ir.Node) -> bool:
    """Let the users of an Identity use what it passes on, and remove it. Returns whether that was possible.

    It stays where it gives a name to a graph output and what it passes on cannot take that name: a graph input, an
    initializer, another output of the graph, or a value of an outer graph. (The pass of onnx_ir renames values of outer
    graphs, and values that are outputs already.)
    """
    if not has(node, Trait.IDENTITY) or len(node.inputs) != 1 or len(node.outputs) != 1:
        return False
    graph, source, result = node.graph, node.inputs[0], node.outputs[0]
    if graph is None or source is None:
        return False
    if result.is_graph_output():
        maker = source.producer()
        if maker is None or maker.graph is not graph or source.is_graph_output():
            return False
    if source.type is None:
        source.type = result.type
    if source.shape is None or (result.is_graph_output() and result.shape is not None):
        source.shape = result.shape
    exposed = result.is_graph_output()
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    if exposed:
        result.name, source.name = f"{result.name}/replaced", result.name
    graph.remove(node, safe=True)
    return True


def pass_by(node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Let `values` stand for the outputs of a node, and remove it.

    An Identity stays where a graph output needs a name that its value cannot take.
    """
    graph = node.graph
    assert graph is not None, "the node is in use"
    identities = []
    for output, value in zip(node.outputs, values, strict=True):
        identity = ir.Node("", "Identity", [value], name=node.name if len(values) == 1 else "")
        output.type = output.type or value.type
        graph.insert_before(node, identity)
        take_over(identity.outputs[0], output)
        identities.append(identity)
    graph.remove(node, safe=True)
    for identity in identities:
        eliminate_identity(identity)
