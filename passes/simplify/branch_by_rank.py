"""Tells which branch of an If is taken from the rank that a later op demands of its result.

    v = If (c) { Squeeze (x) } { Identity (x) }    LSTM (Unsqueeze (v, [0]), ...)

An LSTM takes three axes, so that v has two, and the branch that gives three is never taken by a model that runs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor
from onnxslim.model.nesting import every_graph

DEMANDED: Mapping[str, int] = {"LSTM": 3, "GRU": 3, "RNN": 3, "Gemm": 2}
"""The rank that the first input of an op must have."""

ADDED: Mapping[str, int] = {"Identity": 0, "Relu": 0, "Sigmoid": 0, "Tanh": 0, "Squeeze": -1, "Unsqueeze": 1}
"""How many axes an op adds: so many for each that it names."""

DEPTH = 50
"""So many ops are looked back."""


def decide_by_rank(model: ir.Model, known: Inference) -> int:
    """Make conditions constant where all branches but one give a rank that cannot be. Returns how many."""
    functions = {g for function in model.functions.values() for g in (function.graph, *function.subgraphs())}
    count, editor = 0, Editor(model)
    for graph in every_graph(model):
        for node in list(graph) if graph not in functions else ():
            demanded = DEMANDED.get(node.op_type) if not node.domain and node.inputs else None
            if demanded is not None:
                count += _trace(editor, graph, node.inputs[0], demanded, known)
    return count


def _trace(editor: Editor, graph: ir.Graph, value: ir.Value | None, rank: int, known: Inference) -> bool:
    """Follow a value of which the rank is told back to an If of the same graph, which runs whenever its user does."""
    for _ in range(DEPTH):
        node = value.producer() if value is not None else None
        if node is None or node.domain or node.graph is not graph:
            return False
        if node.op_type == "If":
            return _decide(editor, graph, node, node.outputs.index(value), rank, known)
        added = _added(node)
        if added is None:
            return False
        value, rank = node.inputs[0], rank - added
    return False


def _added(node: ir.Node) -> int | None:
    """Return how many axes a node adds to its input; None where that is not known."""
    each = ADDED.get(node.op_type)
    if not each:
        return each
    if "axes" in node.attributes:
        return None if node.attributes["axes"].is_ref() else each * len(node.attributes["axes"].as_ints())
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if axes is None else each * axes.size


def _decide(editor: Editor, graph: ir.Graph, node: ir.Node, place: int, rank: int, known: Inference) -> bool:
    condition = node.inputs[0]
    if condition is None or constant(condition) is not None:
        return False
    names = ("then_branch", "else_branch")
    possible = [
        rank in found if (found := ranks(node.attributes[name].as_graph().outputs[place], known)) else True
        for name in names
    ]
    if sum(possible) != 1:
        return False
    shape, maker = known.fact(condition).shape, condition.producer()
    one = shape is not None and all(size == 1 for size in shape)
    told = np.full((1,) * len(shape) if one and shape is not None else (), possible[0])
    made = editor.initializer(f"{node.outputs[place].name}/condition", told, graph)
    if one and maker is not None and maker.graph is graph and not condition.is_graph_output():
        condition.replace_all_uses_with(made)  # whoever reads it runs together with this graph, or inside it
    else:
        node.replace_input_with(0, made)
    return True


def ranks(value: ir.Value | None, known: Inference, depth: int = DEPTH) -> frozenset[int] | None:
    """Return the ranks that a value may have; None where all are possible."""
    shape = known.fact(value).shape if value is not None else None
    if shape is not None:
        return frozenset((len(shape),))
    node = value.producer() if value is not None else None
    if node is None or node.domain or not depth:
        return None
    if node.op_type == "If":
        place = node.outputs.index(value)
        both = [
            ranks(node.attributes[name].as_graph().outputs[place], known, depth - 1)
            for name in ("then_branch", "else_branch")
        ]
        return None if both[0] is None or both[1] is None else both[0] | both[1]
    added = _added(node)
    before = ranks(node.inputs[0], known, depth - 1) if added is not None else None
    return None if before is None or added is None else frozenset(each + added for each in before)
