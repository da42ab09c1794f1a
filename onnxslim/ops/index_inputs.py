"""Inputs that hold indices, and what they index; and the inputs whose elements reach a result as they are."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim.ops.op import IndexInto
from onnxslim.ops.parameters import op_of
from onnxslim.ops.table import find_op
from onnxslim.ops.traits import Trait, has


def index_into(node: ir.Node, index: int) -> IndexInto | None:
    """Return what the input `index` of a node indexes; None where it holds no indices."""
    return find_op(op_of(node)).indices.get(index)


def carried_inputs(node: ir.Node) -> Sequence[int]:
    """Return the inputs whose elements reach a result as they are, if not all, then some: an index stays an index."""
    own = find_op(op_of(node)).carried
    if own is not None:
        return own
    return (0,) if has(node, Trait.CARRIES) else moved_inputs(node)


def moved_inputs(node: ir.Node) -> Sequence[int]:
    """Return the inputs that the elements of the results are elements of; none where the node computes new ones."""
    if has(node, Trait.JOINING):
        return range(len(node.inputs))
    return (0,) if has(node, Trait.MOVEMENT) else ()
