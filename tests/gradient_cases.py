"""Draws nodes for the proof of gradients: operands where ops are smooth, attributes that formulas read.

A family of ops whose nodes `DRAWN` or their rows in ops.axes do not draw well enough has a file of its own here,
`gradient_cases_*.py`, with a table `DRAWN_FOR_GRADIENTS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from op_cases import DRAWN
from op_draw import Array, Case, Draw
from row_cases import row_case

from onnxslim.ops.signatures import OpName, signatures

RANGES: Mapping[str | tuple[str, int], tuple[float, float]] = {
    "Acos": (-0.9, 0.9),
    "Acosh": (1.2, 3.0),
    "Asin": (-0.9, 0.9),
    "Atanh": (-0.9, 0.9),
    ("BatchNormalization", 4): (0.5, 2.0),
    "Div": (0.5, 2.0),
    "HardSwish": (-5.0, 5.0),
    "Log": (0.3, 3.0),
    "Mod": (0.5, 3.0),
    "Pow": (0.3, 2.0),
    "Reciprocal": (0.5, 2.0),
    "ReduceLogSum": (0.2, 2.0),
    "Sqrt": (0.2, 2.0),
    "Tan": (-1.2, 1.2),
}
"""Where the real operands of an op, or one of them, lie, if not between -2 and 2."""
SETTLED = {"Shrink"}
"""Ops whose real operands stay as they are drawn."""
FAMILIES = [importlib.import_module(path.stem) for path in sorted(Path(__file__).parent.glob("gradient_cases_*.py"))]
OWN: Mapping[OpName, Callable[[Draw], Case]] = {
    op: drawn for family in FAMILIES for op, drawn in family.DRAWN_FOR_GRADIENTS.items()
}


def drawn_for_gradient(op: OpName, draw: Draw) -> Case:
    """Return a node of an op whose real operands are spread over the range where it is smooth."""
    drawn = OWN.get(op) or DRAWN.get(op) or of_row(op)
    case = next(case for case in iter(lambda: drawn(draw), None) if _has_real_operand(case))

    if op[1] in SETTLED:
        return case

    def spread(index: int, array: Array | None) -> Array | None:
        if array is None or array.dtype != np.float32 or index in case.fixed:
            return array
        low, high = RANGES.get((op[1], index)) or RANGES.get(op[1], (-2.0, 2.0))
        return np.asarray(draw.random.uniform(low, high, array.shape), np.float32)

    case.operands = [spread(index, array) for index, array in enumerate(case.operands)]
    return case


def of_row(op: OpName) -> Callable[[Draw], Case]:
    """Return what draws a node of an op that has rows in ops.axes: of any of them, with any optional operands."""

    def drawn(draw: Draw) -> Case:
        return row_case(draw.one_of(signatures()[op]), draw.random)

    return drawn


def _has_real_operand(case: Case) -> bool:
    """Whether there is something to differentiate by: shape arithmetic is drawn of many ops, too."""
    return any(a is not None and a.dtype == np.float32 and i not in case.fixed for i, a in enumerate(case.operands))
