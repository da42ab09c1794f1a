"""Takes the branch of an If whose condition is known, or does not matter: both branches compute the same."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.nesting import every_graph

from .dead import remove_node
from .value_equality import same_graph


def inline_constant_branches(model: ir.Model) -> int:
    """Put the nodes of a branch in the place of its If, where it is always taken or the other one is the same.

    Returns:
        How many Ifs went.
    """
    count = 0
    functions = {g for function in model.functions.values() for g in (function.graph, *function.subgraphs())}
    for graph in every_graph(model):
        for node in list(graph):
            if node.op_type == "If" and not node.domain and graph not in functions:
                count += _inline(node, graph, model)
    return count


def _inline(node: ir.Node, graph: ir.Graph, model: ir.Model) -> bool:
    condition = constant(node.inputs[0])
    if condition is not None and condition.size == 1:
        branch = node.attributes["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"].as_graph()
    else:
        branch, other = (node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
        if not same_graph(branch, other):
            return False
    made = {output for inner in branch for output in inner.outputs}
    if any(output not in made and not output.is_initializer() for output in branch.outputs):
        return False
    results = list(branch.outputs)
    inner_nodes = list(branch)
    initializers = list(branch.initializers.values())
    branch.outputs.clear()
    branch.initializers.clear()
    branch.remove(inner_nodes)
    taken = _names(model)
    for value in initializers:
        value.name = _free(value.name, taken)
        graph.register_initializer(value)
    for inner in inner_nodes:
        inner.name = _free(inner.name, taken)
        for output in inner.outputs:
            if output.name != "":
                output.name = _free(output.name, taken)
    graph.insert_before(node, inner_nodes)
    for old, new in zip(node.outputs, results, strict=True):
        if old.is_graph_output():
            identity = ir.Node("", "Identity", [new], name=_free(f"{old.name}/Identity", taken))
            passed = identity.outputs[0]
            passed.type, passed.shape = old.type or new.type, old.shape
            graph.insert_before(node, identity)
            old.replace_all_uses_with(passed, replace_graph_outputs=True)
            passed.name, old.name = old.name, f"{old.name}/replaced"
        else:
            old.replace_all_uses_with(new)
    remove_node(node)
    return True


def _names(model: ir.Model) -> set[str]:
    names: set[str] = set()
    for graph in every_graph(model):
        names.update(value.name or "" for value in (*graph.inputs, *graph.initializers.values()))
        for node in graph:
            names.update((node.name or "", *(output.name or "" for output in node.outputs)))
    return names


def _free(wanted: str | None, taken: set[str]) -> str:
    """Return a name that nothing in the model has: names of the branch could be names of the graph around it."""
    name, number = wanted or "inlined", 0
    while name in taken:
        number += 1
        name = f"{wanted or 'inlined'}_{number}"
    taken.add(name)
    return name
