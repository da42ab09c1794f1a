"""Brings a model to a newer operator set, for passes that need what an old one has not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx.version_converter
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.diagnostic import Code
from onnxslim.errors import NotDifferentiable
from onnxslim.model import FORM, canonicalize, weight_bytes
from onnxslim.pipeline.reasons import Reason
from onnxslim.train.step import TRAINING_OPSET

PREFERRED_OPSET = 17
"""Where older models are brought to: all that calibration needs, and no operator changed its meaning for us since."""
LARGEST = 1 << 30
"""Bytes of constants that are handed to the converter: it works on a serialised model, which ends at 2 GiB."""
WEIGHT_BYTES = 1 << 12
"""An initializer of so many bytes is a weight, of which the converter needs the type and the shape alone."""


class OpsetCode(Code):
    """Why a model keeps its operator set."""

    TOO_LARGE = "it has opset {0} and is too large to be converted"
    FUNCTIONS = "it has opset {0} and functions of its own, which onnx's converter leaves out"
    NOT_CONVERTED = "it has opset {0}, and onnx cannot convert it: {1}"


def upgraded(model: ir.Model, opset: int = PREFERRED_OPSET) -> ir.Model | Reason:
    """Return `model` at `opset`, in canonical form and with shapes, or why that is not possible.

    Names of inputs, outputs and values stay. `model` itself is not changed.
    """
    if model.functions:
        return Reason(OpsetCode.FUNCTIONS, (model.opset_imports.get(""),))
    light = model.clone()
    weights = _without_weights(light)
    if weight_bytes(light) > LARGEST:
        return Reason(OpsetCode.TOO_LARGE, (model.opset_imports.get(""),))
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(light), opset)
        result = ir.from_proto(proto)
    except Exception as error:  # the converter raises whatever its C++ code throws
        message = str(error).strip().partition("\n")[0]
        return Reason(OpsetCode.NOT_CONVERTED, (model.opset_imports.get(""), message))
    _with_weights(result, weights)
    canonicalize(result)
    result.graph.meta.update(model.graph.meta)
    form = model.graph.meta.get(FORM)
    if form is not None:
        result.graph.meta[FORM] = dataclasses.replace(form, ir_version=max(form.ir_version, result.ir_version))
    infer_shapes(result)
    return result


def at_least(model: ir.Model, opset: int, target: int | None = None) -> ir.Model | Reason:
    """Return `model` itself where it has `opset` or a newer one; else it upgraded (to `target`, by default `opset`)."""
    return model if model.opset_imports.get("", 1) >= opset else upgraded(model, target or opset)


def differentiable(model: ir.Model, hint: str) -> ir.Model:
    """Return `model` at an operator set that gradients are declared for: itself where it is new enough.

    Raises:
        NotDifferentiable: It cannot be converted; `hint` is what else can be done.
    """
    raised = at_least(model, TRAINING_OPSET)
    if isinstance(raised, Reason):
        raise NotDifferentiable(str(raised), hint=hint)
    return raised


def _without_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Make the weights of the main graph inputs, in place, and return them by name."""
    graph = model.graph
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < WEIGHT_BYTES or value.is_graph_input() or value.is_graph_output():
            continue
        weights[name] = tensor
        del graph.initializers[name]
        value.const_value = None
        value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        graph.inputs.append(value)
    return weights


def _with_weights(model: ir.Model, weights: Mapping[str, ir.TensorProtocol]) -> None:
    """Undo `_without_weights`, in place."""
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in weights]:
        graph.inputs.remove(value)
        value.const_value = weights[value.name or ""]
        graph.register_initializer(value)
