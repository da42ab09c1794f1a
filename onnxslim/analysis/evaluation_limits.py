"""How much memory and work it takes to evaluate nodes, as far as that can be told before they run.

A few bytes of a file can stand for any amount of both: a string that is doubled thirty times, a shape of large sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.constants import as_tensor, static_bytes
from onnxslim.ops.binding import bind, is_sized
from onnxslim.ops.fact import Fact, NodeFacts, of_tensor
from onnxslim.ops.parameters import op_of, opset_of
from onnxslim.ops.table import find_op
from onnxslim.ops.traits import Trait, has

PART_BYTES = 1 << 30
"""What all values of a part that is evaluated at once may take together."""

LOOKED_BYTES = 16 << 20
"""What they may take where their sizes are known only as they are made."""

MOST_MACS = 10**10
"""Multiply-accumulates of a node that is evaluated: a second or so."""


def known_bytes(nodes: Sequence[ir.Node]) -> int:
    """Return the bytes of all values that `nodes` make, as far as their shapes are known."""
    return sum(static_bytes(output) or 0 for node in nodes for output in node.outputs)


def known_macs(node: ir.Node) -> int:
    """Return the multiply-accumulates of a node, 0 where it has none or shapes are not known."""
    bound = bind(node) if is_sized(node) else None
    return 0 if bound is None else bound.macs()


def must_be_looked_at(nodes: Sequence[ir.Node]) -> bool:
    """Whether some values of `nodes` are as large as other values say, or hold strings, and shapes do not tell."""
    return any(
        static_bytes(output) is None
        and (has(node, Trait.SIZED_BY_VALUES) or output.dtype is ir.DataType.STRING or "String" in node.op_type)
        for node in nodes
        for output in node.outputs
    )


def most_bytes(node: ir.Node, inputs: Sequence[Array | None]) -> float:
    """Return how many bytes an output of `node` takes at most, given its inputs; infinity where nobody can tell."""
    given = [array for array in inputs if array is not None]
    width = max([8, *(_width(array) for array in given)])
    if any(array.dtype.kind in "OSU" for array in given):
        width = sum(_width(array) for array in given)
    try:
        return max(_elements(node, inputs, given), 0.0) * width
    except Exception:  # of inputs that do not fit together, or of an op that is described wrongly
        return math.inf


def _width(array: Array) -> int:
    """Return the bytes of an element; of strings, the letters of the longest."""
    if array.dtype.kind in "OSU":
        return max((len(text) for text in array.reshape(-1).tolist()), default=0)
    return array.dtype.itemsize


def _elements(node: ir.Node, inputs: Sequence[Array | None], given: Sequence[Array]) -> float:
    op = find_op(op_of(node))
    if op.largest is not None:
        return op.largest(given)
    if op.infer is not None and has(node, Trait.SIZED_BY_VALUES):
        facts = [None if array is None else of_tensor(as_tensor(array)) for array in inputs]
        found = op.infer(NodeFacts(node, facts, opset_of(node)))
        fact = found if isinstance(found, Fact) else found[0]
        if fact.shape is None or not all(isinstance(size, int) for size in fact.shape):
            return math.inf
        return math.prod(float(size) for size in fact.shape if isinstance(size, int))
    try:
        return float(math.prod(np.broadcast_shapes(*(array.shape for array in given))))
    except ValueError:
        return math.prod(float(max(1, array.size)) for array in given)
