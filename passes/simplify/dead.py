"""Takes away what nothing depends on: identities, dead nodes, unused initializers, unused opsets and functions."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.model.edit import drop_unused
from onnxslim.model.nesting import every_graph, main_graphs, nested_graphs
from onnxslim.ops.traits import Trait, having
from onnxslim.rewrite.identity import eliminate_identity


def eliminate_identities(model: ir.Model) -> int:
    """Remove Identity nodes, except those that give a graph output its name. Returns how many."""
    return sum(eliminate_identity(node) for node in having(every_graph(model), Trait.IDENTITY))


def remove_dead_nodes(model: ir.Model) -> int:
    """Remove nodes whose outputs nobody needs, in subgraphs too. Returns how many.

    The pass of onnx_ir leaves behind what the subgraphs of a dead node use; here a dead If takes its branches along.
    """
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    return sum(_remove_dead(graph) for graph in graphs)


def _remove_dead(graph: ir.Graph) -> int:
    count = 0
    for node in reversed(list(graph)):
        if any(output.uses() or output.is_graph_output() for output in node.outputs):
            count += sum(_remove_dead(inner) for inner in nested_graphs(node))
        else:
            remove_node(node)
            count += 1
    return count


def remove_node(node: ir.Node) -> None:
    """Remove a node whose outputs nobody uses. What its subgraphs use of the graphs around them is used no more."""
    for graph in nested_graphs(node):
        detach(graph)
    if node.graph is not None:
        node.graph.remove(node, safe=True)


def detach(graph: ir.Graph) -> None:
    """Let the nodes of a graph that is thrown away use nothing."""
    for node in graph:
        for inner in nested_graphs(node):
            detach(inner)
        for place in range(len(node.inputs)):
            node.replace_input_with(place, None)


def remove_unused_initializers(model: ir.Model) -> int:
    """Remove initializers that nobody reads, in subgraphs too, unless they are inputs or outputs. Returns how many."""
    return sum(drop_unused(graph) for graph in main_graphs(model))


def remove_unused_imports(model: ir.Model) -> int:
    """Remove local functions that nobody calls, and domains that no node is of. Returns how many."""
    functions, domains = len(model.functions), len(model.opset_imports)
    onnx_ir.passes.common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # not annotated there
    onnx_ir.passes.common.RemoveUnusedOpsetsPass()(model)
    return functions + domains - len(model.functions) - len(model.opset_imports)
