"""Finds the layers that may be split, and why the others are left alone."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.linear_layer import LinearLayer, label, linear_layers
from onnxslim.fit.refit import COLUMNS
from onnxslim.model.constants import constant
from onnxslim.ops.parameters import attribute, op_of
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.interface import Note, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import EVERYTHING, Selection

from .codes import LowrankCode

SMALLEST = 4096
"""Weights with fewer elements hardly ever hold what is worth a node more."""


def find_layers(
    model: ir.Model, selection: Selection = EVERYTHING, smallest: int = SMALLEST
) -> tuple[list[LinearLayer], list[Note]]:
    """Return the layers of the main graph that may be split, in its order, and notes on the others.

    Shapes are known. All uses of such a layer read its weight, of `smallest` numbers at least, in the same way.
    """
    left = [left_alone(label(node), Reason(LowrankCode.QUANTIZED)) for node in model.graph if _is_quantized(node)]
    found: list[LinearLayer] = []
    for layer in linear_layers(model.graph):
        reason = next(filter(None, map(_unfit, layer.uses)), None)
        reason = reason or selection.against(*(use.node for use in layer.weight.uses()))
        reason = reason or _unsplittable(layer) or _small(layer, smallest)
        if reason:
            left.append(left_alone(layer.name, reason))
        else:
            found.append(layer)
    return found, left


def _unfit(use: Contraction) -> Reason | None:
    """Return why a node cannot be replaced by two of its op; None where it can."""
    tensor = use.weight.const_value
    assert tensor is not None
    if not has(use.node, Trait.COMPOSES):
        return Reason(LowrankCode.OP, (use.node.op_type,))
    if use.window is not None:
        if use.groups != 1:
            return Reason(LowrankCode.GROUPED)
        return Reason(LowrankCode.AUTO_PAD) if use.window.fixed_pads is None else None
    if use.weight_index != 1 and len(use.fitted.signature.inputs) > 2:
        return Reason(LowrankCode.LEFT_FACTOR)
    if not use.plain:
        return Reason(LowrankCode.SCALED)
    return None if len(tensor.shape) == 2 else Reason(LowrankCode.WEIGHT_RANK, (len(tensor.shape),))


def _unsplittable(layer: LinearLayer) -> Reason | None:
    values = (layer.weight.name or "",)
    if len(layer.weight.uses()) != len(layer.uses):
        return Reason(LowrankCode.WEIGHT_OF_OTHER_OP, values=values)
    if layer.weight.is_graph_output():
        return Reason(LowrankCode.WEIGHT_IS_OUTPUT, values=values)
    if reason := next(filter(None, map(_strange_bias, layer.uses)), None):
        return reason
    if len({_reading(use) for use in layer.uses}) > 1:
        return Reason(LowrankCode.READ_DIFFERENTLY, values=values)
    return Reason(LowrankCode.TOO_WIDE, (COLUMNS,)) if max(layer.columns, layer.outputs) > COLUMNS else None


def _reading(use: Contraction) -> tuple[object, ...]:
    """Return what is equal for nodes that read a weight in the same way."""
    transposed = [attribute(use.node, name) for name in ("transA", "transB")]
    return (op_of(use.node), use.weight_index, use.letters, use.sizes, use.window, *transposed)


def _small(layer: LinearLayer, smallest: int) -> Reason | None:
    if layer.parameters < smallest:
        return Reason(LowrankCode.TOO_SMALL, (layer.columns, layer.outputs, smallest))
    if smallest > 1 and min(layer.inputs, layer.outputs) < 2:
        return Reason(LowrankCode.ONE_ROW, (layer.columns, layer.outputs))
    return None


def _is_quantized(node: ir.Node) -> bool:
    """Whether a node multiplies by what is stored in integers."""
    makers = [value.producer() for value in node.inputs[:2] if value is not None] if has(node, Trait.COMPOSES) else ()
    return any(
        maker is not None and has(maker, Trait.DEQUANTIZES) and constant(maker.inputs[0]) is not None
        for maker in makers
    )


def _strange_bias(use: Contraction) -> Reason | None:
    """Return why the own bias of a node cannot be added behind factors; None where it can, or where there is none."""
    bias = use.bias
    if bias is None or bias.value is None or bias.vector is not None:
        return None
    code = LowrankCode.BIAS_COMPUTED if constant(bias.value) is None else LowrankCode.BIAS_NO_VECTOR
    return Reason(code, values=(bias.value.name or "",))
