"""Draws nodes for the proof of gradients: operands where ops are smooth, attributes that formulas read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from op_cases import DRAWN
from op_draw import Array, Case, Draw

from onnxslim.ops.signatures import OpName

RANGES: Mapping[str, tuple[float, float]] = {
    "Div": (0.5, 2.0),
}
"""Where the real operands of an op lie, if not between -2 and 2."""
ATTRIBUTES: Mapping[str, Callable[[Draw], dict[str, object]]] = {
    "LeakyRelu": lambda draw: {"alpha": 0.3} if draw.chance() else {},
}
"""Attributes of elementwise ops that `DRAWN` leaves out."""


def drawn_for_gradient(op: OpName, draw: Draw) -> Case:
    """Return a node of an op whose real operands are spread over the range where it is smooth."""
    case = next(case for case in iter(lambda: DRAWN[op](draw), None) if _has_real_operand(case))
    low, high = RANGES.get(op[1], (-2.0, 2.0))

    def spread(index: int, array: Array | None) -> Array | None:
        if array is None or array.dtype != np.float32 or index in case.fixed:
            return array
        return np.asarray(draw.random.uniform(low, high, array.shape), np.float32)

    case.operands = [spread(index, array) for index, array in enumerate(case.operands)]
    case.attributes |= ATTRIBUTES.get(op[1], lambda draw: {})(draw)
    return case


def _has_real_operand(case: Case) -> bool:
    """Whether there is something to differentiate by: shape arithmetic is drawn of many ops, too."""
    return any(a is not None and a.dtype == np.float32 and i not in case.fixed for i, a in enumerate(case.operands))
