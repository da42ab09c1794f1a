"""Leaves out inputs that are all zeros where a missing input counts as zeros: states that an exporter sets out with."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.graph.constants import constant_tensor, tensor_bytes

from .dead import every_graph

ZEROS_IF_MISSING = {"GRU": (3, 5), "LSTM": (3, 5, 6, 7), "RNN": (3, 5)}
"""Optional inputs that ONNX defines to be zeros where they are missing: bias, initial states, peepholes."""

MOVING = frozenset({"Expand", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"})
"""Ops that make nothing that is not among the elements of their first input."""

MOST_BYTES = 1 << 20
"""Larger constants are not read to see whether they are zeros."""


def leave_out_zeros(model: ir.Model) -> int:
    """Take inputs away that are zeros anyway. Returns how many."""
    count = 0
    for graph in every_graph(model):
        for node in graph:
            places = () if node.domain else ZEROS_IF_MISSING.get(node.op_type, ())
            for place in places:
                if place < len(node.inputs) and node.inputs[place] is not None and _is_zero(node.inputs[place]):
                    node.replace_input_with(place, None)
                    count += 1
            if places:
                _drop_missing_at_the_end(node)
    return count


def _drop_missing_at_the_end(node: ir.Node) -> None:
    given = [place for place, value in enumerate(node.inputs) if value is not None]
    if given and given[-1] + 1 < len(node.inputs):
        node.resize_inputs(given[-1] + 1)


def _is_zero(value: ir.Value | None) -> bool:
    """Whether all elements of a value are known to be zero, however many there are."""
    while value is not None:
        tensor = constant_tensor(value)
        if tensor is not None:
            return tensor_bytes(tensor) <= MOST_BYTES and not np.any(tensor.numpy())
        maker = value.producer()
        if maker is None or maker.domain:
            return False
        if maker.op_type in MAKES_ZEROS:
            held = maker.attributes.get("value")
            return held is None or (not held.is_ref() and not np.any(held.as_tensor().numpy()))
        if maker.op_type not in MOVING:
            return False
        value = maker.inputs[0]
    return False


MAKES_ZEROS = frozenset({"ConstantOfShape"})
"""Ops that fill what they make with their attribute, or with zeros."""
