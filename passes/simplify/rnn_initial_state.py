"""Lets recurrent layers begin with zeros by leaving their initial states out, which means the same.

No rule can say it: the zeros may be made for several layers at once, and a rule takes only what nobody else needs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant, constant_tensor
from onnxslim.model.nesting import every_graph
from onnxslim.ops.traits import Trait, has, having

STATES = (5, 6)
"""Inputs that are zeros where they are missing (ONNX operators, ``initial_h`` and ``initial_c``)."""

DEPTH = 8
LARGEST = 1 << 20
"""Elements of a constant that is looked at."""


def leave_out_zero_states(model: ir.Model) -> int:
    """Leave out initial states that are zeros. Returns how many."""
    count = 0
    for node in having(every_graph(model), Trait.RECURRENT):
        for index, value in enumerate(node.inputs):
            if index in STATES and value is not None and _is_zero(value):
                node.replace_input_with(index, None)
                count += 1
    return count


def _is_zero(value: ir.Value, depth: int = DEPTH) -> bool:
    tensor = constant_tensor(value)
    if tensor is not None:
        array = constant(value) if tensor.size <= LARGEST else None
        return array is not None and array.dtype.kind == "f" and not np.any(array)
    node = value.producer()
    if node is None or depth == 0:
        return False
    if has(node, Trait.FILLS):
        number = node.attributes.get("value")
        return number is None or (not number.is_ref() and not np.any(number.as_tensor().numpy()))
    first = node.inputs[0] if has(node, Trait.KEEPS_ZERO) and node.inputs else None
    return first is not None and _is_zero(first, depth - 1)
