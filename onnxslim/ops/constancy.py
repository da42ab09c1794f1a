"""What ops make of a channel that holds one number everywhere: the same number, 0 of 0, or what the op is asked for."""

from __future__ import annotations

import enum

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.binding import attribute, bind
from onnxslim.ops.traits import Trait, has


class Constancy(enum.Enum):
    """What is left of a constant channel behind an op."""

    EVALUATED = "evaluated"
    """Place by place a function of the operands: the op itself tells."""
    KEPT = "kept"
    """The same number: elements are moved, or averaged."""
    ZERO_KEPT = "zero kept"
    """0 of 0, and nothing of any other number: elements are summed."""
    LOST = "lost"


PLACING = frozenset({"concat", "pad", "filled"})
"""Kinds of `ops.axes` whose ops put elements of several inputs, or a constant, beside each other."""
INTERPOLATIONS = ("nearest", "linear")
"""Whose weights add up to 1 and are never negative."""


def constancy(node: ir.Node) -> Constancy:
    """Return what is left of a constant channel of the first input, of all inputs of an elementwise op or a Concat."""
    bound = bind(node)
    kind = "" if bound is None else bound.signature.kind
    if has(node, Trait.ELEMENTWISE) or (not node.domain and node.op_type == "BatchNormalization"):
        return Constancy.EVALUATED
    if not node.domain and node.op_type == "AveragePool":
        counts_padding = bool(attribute(node, "count_include_pad")) and pads(node)
        return Constancy.ZERO_KEPT if counts_padding or attribute(node, "ceil_mode") else Constancy.KEPT
    smooth = kind == "resize" and attribute(node, "mode") in INTERPOLATIONS
    if kind == "resize" and attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return Constancy.LOST  # what lies outside of the image is another number
    if smooth or kind in PLACING or has(node, Trait.MOVEMENT) or has(node, Trait.KEEPS_CONSTANT):
        return Constancy.KEPT
    return Constancy.ZERO_KEPT if kind == "resize" or has(node, Trait.KEEPS_ZERO) else Constancy.LOST


def joins(node: ir.Node) -> bool:
    """Whether the elements of all inputs are moved, and not those of the first alone."""
    bound = bind(node)
    return bound is not None and bound.signature.kind == "concat"


def pads(node: ir.Node) -> bool:
    """Whether the windows of a node reach beyond its input."""
    padding = any(np.ravel(attribute(node, "pads") or 0))
    return padding or attribute(node, "auto_pad") not in (None, "NOTSET", "VALID")


def fill(node: ir.Node) -> float | None:
    """Return the number that a Pad or a ConstantOfShape puts where no input is; NaN: computed; None: there is none."""
    bound = bind(node)
    kind = "" if bound is None else bound.signature.kind
    if kind == "filled":
        value = node.attributes.get("value")
        return 0.0 if value is None else float(value.as_tensor().numpy().ravel()[0])
    if kind != "pad" or attribute(node, "mode") != "constant":
        return None
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is None:
        number = attribute(node, "value")
        return float(number) if isinstance(number, (int, float)) else 0.0
    array = constant(given)
    return np.nan if array is None else float(array.ravel()[0])
