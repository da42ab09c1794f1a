"""Finds the inference rule of an op: one written for it, or one for all ops of its kind in ops.axes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from onnxslim.ops import contraction, creation, elementwise, movement, reduction, window
from onnxslim.ops.fact import ShapeRule
from onnxslim.ops.signatures import Signature, signatures

OF_KIND: dict[str, ShapeRule] = {
    "broadcast": elementwise.elementwise(),
    "mixing": elementwise.unary(),
    "reduce": reduction.reduce,
    "sum": reduction.reduce,
}
"""For all ops of a kind, where none is written for the op."""

THEMES: tuple[Mapping[tuple[str, str], ShapeRule], ...] = (
    contraction.RULES,
    creation.RULES,
    elementwise.RULES,
    movement.RULES,
    reduction.RULES,
    window.RULES,
)
"""The rules that are written for an op."""

SAME = ("GroupNormalization", "InstanceNormalization", "RMSNormalization")
"""Ops whose result has the shape and type of their first input, whatever else ops.axes says of them."""


@functools.cache
def rule_of(domain: str, op_type: str) -> ShapeRule | None:
    """Return the rule of an op, or None."""
    for theme in THEMES:
        if (domain, op_type) in theme:
            return theme[domain, op_type]
    if not domain and op_type in SAME:
        return elementwise.unary()
    rows = signatures().get((domain, op_type), ())
    if not rows:
        return None
    if rows[0].kind:
        return OF_KIND.get(rows[0].kind)
    return None if any(_invents_axes(row) for row in rows) else contraction.by_signature(rows)


def _invents_axes(row: Signature) -> bool:
    """Whether a result has a run of axes that no input has, so that the row does not say how many there are."""
    known = {axis.factors for operand in row.inputs for axis in operand.dimensions}
    return any(axis.ellipsis and axis.factors not in known for operand in row.outputs for axis in operand.dimensions)
