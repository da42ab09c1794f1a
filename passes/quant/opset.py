"""Brings a model to an opset that has the operators that quantization needs."""

from __future__ import annotations

import dataclasses

import onnx.version_converter
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import FORM, canonicalize, weight_bytes
from onnxslim.pipeline.reasons import Reason

from .codes import QuantCode

QUANTIZATION_OPSET = 13
"""DequantizeLinear has an axis since opset 13."""
PREFERRED_OPSET = 17
"""Where older models are brought to: all that calibration needs, and no operator changed its meaning for us since."""
LARGEST = 1 << 30
"""Bytes of weights that are handed to the converter: it works on a serialised model, which ends at 2 GiB."""


def upgraded(model: ir.Model) -> ir.Model | Reason:
    """Return `model` at `PREFERRED_OPSET`, in canonical form and with shapes, or why that is not possible.

    Names of inputs, outputs and values stay. `model` itself is not changed.
    """
    if weight_bytes(model) > LARGEST:
        return Reason(QuantCode.TOO_LARGE, (model.opset_imports.get(""),))
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), PREFERRED_OPSET)
        result = ir.from_proto(proto)
    except Exception as error:  # the converter raises whatever its C++ code throws
        message = str(error).strip().partition("\n")[0]
        return Reason(QuantCode.NOT_CONVERTED, (model.opset_imports.get(""), message))
    canonicalize(result)
    result.graph.meta.update(model.graph.meta)
    form = model.graph.meta.get(FORM)
    if form is not None:
        result.graph.meta[FORM] = dataclasses.replace(form, ir_version=max(form.ir_version, result.ir_version))
    infer_shapes(result)
    return result
