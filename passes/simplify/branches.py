"""Takes the branch of an If whose condition is known, or does not matter: both branches compute the same."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.families.control_flow import branches
from onnxslim.rewrite.identity import pass_by

from .dead import remove_node
from .value_equality import same_graph


def inline_constant_branches(model: ir.Model) -> int:
    """Put the nodes of a branch in the place of its If, where it is always taken or the other one is the same.

    Returns:
        How many Ifs went.
    """
    graphs = main_graphs(model)
    if len(graphs) == 1:
        return 0  # nothing holds a graph
    count = 0
    for graph in graphs:
        for node in list(graph):
            pair = branches(node)
            branch = None if pair is None else _taken(node, *pair)
            count += branch is not None and _inline(node, graph, branch, model)
    return count


def _taken(node: ir.Node, then_branch: ir.Graph, else_branch: ir.Graph) -> ir.Graph | None:
    """Return the branch that is taken, either where both are the same, and None where that is not known."""
    condition = constant(node.inputs[0])
    if condition is not None and condition.size == 1:
        return then_branch if bool(condition.reshape(-1)[0]) else else_branch
    return then_branch if same_graph(then_branch, else_branch) else None


def _inline(node: ir.Node, graph: ir.Graph, branch: ir.Graph, model: ir.Model) -> bool:
    made = {output for inner in branch for output in inner.outputs}
    if any(output not in made and not output.is_initializer() for output in branch.outputs):
        return False
    results = list(branch.outputs)
    inner_nodes = list(branch)
    initializers = list(branch.initializers.values())
    branch.outputs.clear()
    branch.initializers.clear()
    branch.remove(inner_nodes)
    editor = Editor(model)  # made here: what the branch holds keeps its names where nothing else has them
    for value in initializers:
        value.name = editor.name(value.name or "inlined")
        graph.register_initializer(value)
    for inner in inner_nodes:
        inner.name = editor.name(inner.name or "inlined")
        for output in inner.outputs:
            if output.name != "":
                output.name = editor.name(output.name or "inlined")
    graph.insert_before(node, inner_nodes)
    pass_by(node, results)
    remove_node(node)
    return True
