"""Codes of what `dequantize` leaves in integers."""

from __future__ import annotations

from onnxslim.diagnostic import Code


class DequantizeCode(Code):
    """Why a model or a node stays as it is."""

    NOT_QUANTIZED = "nothing in it is quantized"
    OLD_OPSET = "it has opset {0}: DequantizeLinear has an axis from {1} on"
    ASKED_FOR = "floats were asked for, whatever they cost"
    NO_FLOAT_FORM = "{0} has no float form here, or not with these inputs and attributes"
    INTERFACE = "the model's own {0} is made of integers"
    BESIDE_INTEGERS = "its integers are made or read by what stays, or its scale is not one constant number"
