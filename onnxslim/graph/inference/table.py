"""Finds the inference rule of an op: one written for it, or one for all ops of its kind in ops.axes."""

from __future__ import annotations

import functools

from onnxslim.graph.inference import contraction, creation, elementwise, layout, reduction, window
from onnxslim.graph.inference.fact import Rule
from onnxslim.graph.signatures import Signature, signatures

OF_KIND: dict[str, Rule] = {
    "broadcast": elementwise.elementwise(),
    "mixing": elementwise.unary(),
    "reduce": reduction.reduce,
}
"""For all ops of a kind, where none is written for the op."""

SAME = ("GroupNormalization", "InstanceNormalization", "RMSNormalization")
"""Ops whose result has the shape and type of their first input, whatever else ops.axes says of them."""


@functools.cache
def rules() -> dict[tuple[str, str], Rule]:
    """Return the rule of each op that has one, by domain and op."""
    table: dict[tuple[str, str], Rule] = {}
    for op, rows in signatures().items():
        if not rows[0].kind:
            if not any(_invents_axes(row) for row in rows):
                table[op] = contraction.by_signature(rows)
        elif rows[0].kind in OF_KIND:
            table[op] = OF_KIND[rows[0].kind]
    table.update({("", op): elementwise.unary() for op in SAME})
    for theme in (contraction, creation, elementwise, layout, reduction, window):
        table.update(theme.RULES)
    return table


def _invents_axes(row: Signature) -> bool:
    """Whether a result has a run of axes that no input has, so that the row does not say how many there are."""
    known = {axis.factors for operand in row.inputs for axis in operand.dimensions}
    return any(axis.ellipsis and axis.factors not in known for operand in row.outputs for axis in operand.dimensions)
