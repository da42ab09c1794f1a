"""What ops make of a channel that holds one number everywhere: the same number, 0 of 0, or what the op is asked for."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.ops.op import Constancy
from onnxslim.ops.parameters import op_of
from onnxslim.ops.table import find_op
from onnxslim.ops.traits import Trait, has


def constancy(node: ir.Node) -> Constancy:
    """Return what is left of a constant channel of the first input, of all inputs of an elementwise op or a Concat."""
    own = find_op(op_of(node)).constancy
    if own is not None:
        return own(node)
    if has(node, Trait.ELEMENTWISE):
        return Constancy.EVALUATED
    if has(node, Trait.MOVEMENT) or has(node, Trait.JOINING) or has(node, Trait.KEEPS_CONSTANT):
        return Constancy.KEPT
    return Constancy.ZERO_KEPT if has(node, Trait.KEEPS_ZERO) else Constancy.LOST


def fill(node: ir.Node) -> float | None:
    """Return the number that a node puts where no input is; NaN: computed when the model runs; None: there is none."""
    own = find_op(op_of(node)).fill
    return None if own is None else own(node)
