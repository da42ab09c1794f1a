"""Forgets the names of sizes that are only guessed.

Where two sizes with different names broadcast, shape inference takes the first of them for the size of the result. It
is the second if the first happens to be 1. So no name that took part can be relied on from there on: whatever depends
on the result, by its elements or by its shape, loses these names. Sizes that are numbers are right in any case.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from onnxslim.graph.nesting import nested_graphs

BROADCASTING = frozenset(
    {
        "Add",
        "And",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Div",
        "Equal",
        "Expand",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "MatMul",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Or",
        "Pow",
        "Sub",
        "Sum",
        "Where",
        "Xor",
    }
)
"""Ops of the default domain whose inputs widen each other; ops of other domains are taken to do so, too."""

MATRIX_AXES = {"MatMul": 2}
"""How many axes at the end are no batch, and do not broadcast."""

SYMBOL = re.compile(r"[A-Za-z_]\w*")

Names = frozenset[str]


def forget_doubtful_sizes(model: ir.Model) -> int:
    """Let sizes with doubtful names be unknown, in the graph and its subgraphs. Returns how many values had any."""
    return _forget(model.graph, {}, frozenset())


def _forget(graph: ir.Graph, doubts: dict[ir.Value, Names], inherited: Names) -> int:
    count = 0
    for value in graph.inputs:
        doubts[value] = inherited  # of a subgraph: what the op around it reads
    for node in graph:
        inputs = [doubts.get(value, frozenset()) for value in node.inputs if value is not None]
        doubt = frozenset[str]().union(_conflicts(node), *inputs)
        for inner in nested_graphs(node):
            count += _forget(inner, doubts, doubt)
            inside = (value for each in inner.all_nodes() for value in each.outputs)
            doubt = doubt.union(*(doubts.get(value, frozenset()) for value in inside))
        for output in node.outputs:
            doubts[output] = doubt
            count += _drop(output, doubt)
    return count


def _conflicts(node: ir.Node) -> Names:
    """Return the names of all sizes that meet sizes of other names at a node."""
    if not node.domain and node.op_type not in BROADCASTING:
        return frozenset()
    shapes = [list(value.shape) for value in node.inputs if value is not None and value.shape is not None]
    if node.op_type == "Expand" and not node.domain:
        shapes = shapes[:1]
        return _symbols(shapes[0]) if shapes and not _is_static_target(node) else frozenset()
    shapes = [shape[: len(shape) - MATRIX_AXES.get(node.op_type, 0)] for shape in shapes]
    names: set[str] = set()
    for place in range(1, max(map(len, shapes), default=0) + 1):
        met = {str(s[-place]) for s in shapes if len(s) >= place and isinstance(s[-place], ir.SymbolicDim)}
        if len(met) > 1:
            names |= met
    return frozenset(symbol for name in names for symbol in SYMBOL.findall(name))


def _symbols(shape: list[int | ir.SymbolicDim]) -> Names:
    return frozenset(s for size in shape if isinstance(size, ir.SymbolicDim) for s in SYMBOL.findall(str(size)))


def _is_static_target(node: ir.Node) -> bool:
    """Whether an Expand is told numbers: these win over names, and ones leave the names as they are."""
    return len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None


def _drop(value: ir.Value, doubt: Names) -> bool:
    if value.shape is None or not doubt:
        return False
    sizes = [None if not doubt.isdisjoint(_symbols([size])) else size for size in value.shape]
    if sizes == list(value.shape):
        return False
    value.shape = ir.Shape(sizes)
    return True
