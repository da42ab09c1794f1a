"""Brings a model to a newer operator set, for passes that need what an old one has not."""

from __future__ import annotations

import dataclasses

import onnx.version_converter
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.diagnostic import Code
from onnxslim.model import FORM, canonicalize, weight_bytes
from onnxslim.pipeline.reasons import Reason

PREFERRED_OPSET = 17
"""Where older models are brought to: all that calibration needs, and no operator changed its meaning for us since."""
LARGEST = 1 << 30
"""Bytes of weights that are handed to the converter: it works on a serialised model, which ends at 2 GiB."""


class OpsetCode(Code):
    """Why a model keeps its operator set."""

    TOO_LARGE = "it has opset {0} and is too large to be converted"
    NOT_CONVERTED = "it has opset {0}, and onnx cannot convert it: {1}"


def upgraded(model: ir.Model, opset: int = PREFERRED_OPSET) -> ir.Model | Reason:
    """Return `model` at `opset`, in canonical form and with shapes, or why that is not possible.

    Names of inputs, outputs and values stay. `model` itself is not changed.
    """
    if weight_bytes(model) > LARGEST:
        return Reason(OpsetCode.TOO_LARGE, (model.opset_imports.get(""),))
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), opset)
        result = ir.from_proto(proto)
    except Exception as error:  # the converter raises whatever its C++ code throws
        message = str(error).strip().partition("\n")[0]
        return Reason(OpsetCode.NOT_CONVERTED, (model.opset_imports.get(""), message))
    canonicalize(result)
    result.graph.meta.update(model.graph.meta)
    form = model.graph.meta.get(FORM)
    if form is not None:
        result.graph.meta[FORM] = dataclasses.replace(form, ir_version=max(form.ir_version, result.ir_version))
    infer_shapes(result)
    return result
