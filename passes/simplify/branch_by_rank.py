"""Decides which branch of an If is taken by the rank that a later op demands of its result.

    v = If (c) { Squeeze (x) } { Identity (x) }    LSTM (Unsqueeze (v, [0]), ...)

An LSTM takes three axes, so that v has two, and the branch that gives three is never taken by a model that runs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.families.control_flow import branches
from onnxslim.ops.signatures import rank_of_input

MOST_AXES = 8
"""Ranks up to this are tried."""

DEPTH = 50
"""So many ops are followed backwards."""


def decide_by_rank(model: ir.Model, known: Inference) -> int:
    """Make conditions constant where all branches but one give a rank that cannot be. Returns how many."""
    graphs = main_graphs(model)
    if len(graphs) == 1:
        return 0  # nothing holds a graph
    count, editor = 0, Editor(model)
    for graph in graphs:
        for node in list(graph):
            rank = rank_of_input((node.domain, node.op_type), 0) if node.inputs else None
            if rank is not None:
                count += _trace(editor, graph, node.inputs[0], rank, known)
    return count


def _trace(editor: Editor, graph: ir.Graph, value: ir.Value | None, rank: int, known: Inference) -> bool:
    """Follow a value whose rank is known back to an If of the same graph, which runs whenever its user does."""
    for _ in range(DEPTH):
        node = value.producer() if value is not None else None
        if node is None or node.graph is not graph or not node.inputs:
            return False
        if branches(node):
            return _decide(editor, graph, node, node.outputs.index(value), rank, known)
        possible = [before for before in range(MOST_AXES) if known.rank_behind(node, before) == rank]
        if len(possible) != 1 or value is not node.outputs[0]:
            return False
        value, rank = node.inputs[0], possible[0]
    return False


def _decide(editor: Editor, graph: ir.Graph, node: ir.Node, index: int, rank: int, known: Inference) -> bool:
    condition, pair = node.inputs[0], branches(node)
    if condition is None or constant(condition) is not None or pair is None:
        return False
    results = [ranks(branch.outputs[index], known) for branch in pair]
    possible = [found is None or rank in found for found in results]
    if sum(possible) != 1:
        return False
    shape, producer = known.fact(condition).shape, condition.producer()
    single = shape is not None and all(size == 1 for size in shape)
    array = np.full((1,) * len(shape) if single and shape is not None else (), possible[0])
    decided = editor.initializer(f"{node.outputs[index].name}/condition", array, graph)
    if single and producer is not None and producer.graph is graph and not condition.is_graph_output():
        condition.replace_all_uses_with(decided)  # whoever reads it runs together with this graph, or inside it
    else:
        node.replace_input_with(0, decided)
    return True


def ranks(value: ir.Value | None, known: Inference, depth: int = DEPTH) -> frozenset[int] | None:
    """Return the ranks that a value may have; None where all are possible."""
    shape = known.fact(value).shape if value is not None else None
    if shape is not None:
        return frozenset((len(shape),))
    node = value.producer() if value is not None else None
    if node is None or not depth or not node.inputs:
        return None
    pair = branches(node)
    if pair is not None:
        index = node.outputs.index(value)
        first, second = (ranks(branch.outputs[index], known, depth - 1) for branch in pair)
        return None if first is None or second is None else first | second
    before = ranks(node.inputs[0], known, depth - 1) if value is node.outputs[0] else None
    results = [known.rank_behind(node, rank) for rank in before or ()]
    return None if before is None or None in results else frozenset(rank for rank in results if rank is not None)
