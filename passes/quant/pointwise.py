"""What pointwise ops make of a tensor before anything else reads it: there its error counts.

What a convolution makes in front of x * sigmoid(x) may reach to -100; of all that lies below -6 next to nothing is left
behind, and levels there are wasted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.evaluate import evaluate_nodes
from onnxslim.arrays import Floats
from onnxslim.model.constants import constant, constant_tensor
from onnxslim.ops.traits import Trait, has

MOST = 16
"""Nodes of one region at most."""


def curves(members: Sequence[ir.Value], numbers: Floats) -> Floats | None:
    """Return what the elements of a tensor become until something reads them that is not pointwise.

    Args:
        members: Tensors that hold the same elements, some of them, or all.
        numbers: Elements, shape [numbers].

    Returns:
        For each tensor that is read what the numbers are there, shape [tensors, numbers]; None where they are what they
        were, or are not known or not finite.
    """
    graph, movers = members[0].graph, {value.producer() for value in members[1:]}
    found: list[Floats] = []
    plain = True
    for value in members:
        nodes = _pointwise(value)
        read = [made for made in (value, *(node.outputs[0] for node in nodes)) if _is_read(made, {*nodes, *movers})]
        wanted = [made for made in read if made is not value]
        if value in read:
            found.append(numbers)
        if not wanted:
            continue
        plain = False
        stored = {operand: constant(operand) for node in nodes for operand in node.inputs if operand is not None}
        feeds = {value: numbers.astype(np.float32)}
        feeds |= {operand: array for operand, array in stored.items() if array is not None}
        arrays = evaluate_nodes(nodes, feeds, wanted, {} if graph is None else graph.opset_imports)
        if arrays is None or any(np.shape(array) != numbers.shape for array in arrays):
            return None
        found += [np.asarray(array, np.float64) for array in arrays]
    result = np.array(found)
    return None if plain or not np.isfinite(result).all() else result


def _pointwise(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that make each element of one of `value`, and of nothing else but stored numbers, in order."""
    known, nodes, waiting = {value}, list[ir.Node](), [value]
    while waiting and len(nodes) < MOST:
        for node in _readers(waiting.pop()):
            if node not in nodes and node.graph is value.graph and _is_pointwise(node, known):
                nodes.append(node)
                known.add(node.outputs[0])
                waiting.append(node.outputs[0])
    return nodes


def _is_pointwise(node: ir.Node, known: Collection[ir.Value]) -> bool:
    if not has(node, Trait.ELEMENTWISE) or len(node.outputs) != 1 or node.outputs[0].dtype != ir.DataType.FLOAT:
        return False
    for operand in node.inputs:
        if operand is not None and operand not in known:
            tensor = constant_tensor(operand)
            if tensor is None or tensor.size != 1:
                return False
    return True


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    yield from dict.fromkeys(use.node for use in value.uses())


def _is_read(value: ir.Value, nodes: Collection[ir.Node | None]) -> bool:
    return value.is_graph_output() or any(reader not in nodes for reader in _readers(value))
