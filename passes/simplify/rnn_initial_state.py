"""Lets recurrent layers begin with zeros by leaving their initial states out, which means the same.

No rule can say it: the zeros may be made for several layers at once, and a rule takes only what nobody else needs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant, constant_tensor
from onnxslim.model.nesting import every_graph

STATES: Mapping[str, tuple[int, ...]] = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
"""Inputs that are zeros where they are missing (ONNX operators, ``initial_h`` and ``initial_c``)."""

MOVING = frozenset(
    {"Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Ops that make zeros of zeros, whatever else they read."""

DEPTH = 8
LARGEST = 1 << 20
"""Elements of a constant that is looked at."""


def leave_out_zero_states(model: ir.Model) -> int:
    """Leave out initial states that are zeros. Returns how many."""
    count = 0
    for graph in every_graph(model):
        for node in graph:
            for place in STATES.get(node.op_type, ()) if not node.domain else ():
                value = node.inputs[place] if len(node.inputs) > place else None
                if value is not None and _is_zero(value):
                    node.replace_input_with(place, None)
                    count += 1
    return count


def _is_zero(value: ir.Value, depth: int = DEPTH) -> bool:
    tensor = constant_tensor(value)
    if tensor is not None:
        array = constant(value) if tensor.size <= LARGEST else None
        return array is not None and array.dtype.kind == "f" and not np.any(array)
    maker = value.producer()
    if maker is None or maker.domain or depth == 0:
        return False
    if maker.op_type == "ConstantOfShape":
        filled = maker.attributes.get("value")
        return filled is None or (not filled.is_ref() and not np.any(filled.as_tensor().numpy()))
    first = maker.inputs[0] if maker.op_type in MOVING and maker.inputs else None
    return first is not None and _is_zero(first, depth - 1)
