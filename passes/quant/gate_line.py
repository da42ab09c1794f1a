"""The straight line of a gate, which rises from 0 to 1: where its ends lie, and which ops are none."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.ops.parameters import attribute
from onnxslim.pipeline.reasons import Reason

from .codes import QuantCode
from .table import Row

RISE = (1e-3, 1e3)
"""How steep the line may be: others are no gates."""
HALF = 0.5
"""Where the line is at zero: in the middle, so that its ends lie equally far from there."""


def reach(node: ir.Node, row: Row) -> float:
    """Return how far from zero the ends of the line of a gate are, against which there is no reason."""
    if row.reach:
        return row.reach
    alpha = attribute(node, "alpha")
    assert isinstance(alpha, float)
    return HALF / alpha


def reason_against_line(node: ir.Node, row: Row) -> Reason | None:
    """Return why a node of an op that can be a gate is none; None where it is, or its op is no such one."""
    if row.gate is None or row.reach:
        return None
    alpha, beta = (attribute(node, name) for name in ("alpha", "beta"))
    if not (isinstance(alpha, float) and RISE[0] <= alpha <= RISE[1]):
        return Reason(QuantCode.ATTRIBUTE, ("alpha", f"{RISE[0]:g} to {RISE[1]:g}"))
    return Reason(QuantCode.ATTRIBUTE, ("beta", HALF)) if beta != HALF else None
