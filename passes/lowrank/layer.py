"""Finds the layers that may be split, and why the others are left alone."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.linear_layer import LinearLayer, label, linear_layers
from onnxslim.fit.refit import COLUMNS
from onnxslim.model.constants import constant
from onnxslim.ops.parameters import attribute, op_of
from onnxslim.ops.traits import Trait, has
from onnxslim.pipeline.selection import EVERYTHING, Selection

SMALLEST = 4096
"""Weights with fewer elements hardly ever hold what is worth a node more."""


def find_layers(
    model: ir.Model, selection: Selection = EVERYTHING, smallest: int = SMALLEST
) -> tuple[list[LinearLayer], list[tuple[str, str]]]:
    """Return the layers of the main graph that may be split, in its order, and (name, reason) for the others.

    All uses of such a layer read its weight in the same way.

    Args:
        model: With shapes.
        selection: The nodes that the options choose.
        smallest: Weights with fewer numbers are left alone.
    """
    layers = linear_layers(model.graph)
    unfit = {layer.weight: next(filter(None, map(_unfit, layer.uses)), "") for layer in layers}
    left = [(label(node), "its weight is quantized") for node in _quantized(model.graph)]
    left += [(layer.name, unfit[layer.weight]) for layer in layers if unfit[layer.weight]]
    found: list[LinearLayer] = []
    for layer in layers:
        if unfit[layer.weight]:
            continue
        reason = selection.against(*(use.node for use in layer.weight.uses()))
        reason = reason or _unsplittable(layer) or _small(layer, smallest)
        if reason:
            left.append((layer.name, reason))
        else:
            found.append(layer)
    return found, left


def _unfit(use: Contraction) -> str:
    """Return why a node cannot be replaced by two of its op; empty where it can."""
    tensor = use.weight.const_value
    assert tensor is not None
    if not has(use.node, Trait.COMPOSES):
        return f"{use.node.op_type} is not split"
    if use.window is not None:
        if use.groups != 1:
            return "its channels are grouped: the groups are factors already"
        if use.window.fixed_pads is None:
            return "its padding depends on the size of the image (auto_pad)"
        return ""
    if use.weight_index != 1 and len(use.fitted.signature.inputs) > 2:
        return "its weight is the left factor"
    if not use.plain:
        return "it scales its result (alpha, beta)"
    return "" if len(tensor.shape) == 2 else f"its weight has {len(tensor.shape)} axes"


def _unsplittable(layer: LinearLayer) -> str:
    if len(layer.weight.uses()) != len(layer.uses):
        return "its weight is shared with a node of another kind"
    if layer.weight.is_graph_output():
        return "its weight is an output of the model"
    if reason := next(filter(None, map(_strange_bias, layer.uses)), ""):
        return reason
    if len({_reading(use) for use in layer.uses}) > 1:
        return "its weight is shared by nodes that read it differently"
    if layer.columns > COLUMNS or layer.outputs > COLUMNS:
        return f"more than {COLUMNS} inputs or outputs of one window"
    return ""


def _reading(use: Contraction) -> tuple[object, ...]:
    """Return what is equal for nodes that read a weight in the same way."""
    transposed = [attribute(use.node, name) for name in ("transA", "transB")]
    return (op_of(use.node), use.weight_index, use.letters, use.sizes, use.window, *transposed)


def _small(layer: LinearLayer, smallest: int) -> str:
    few = layer.parameters < smallest or (smallest > 1 and min(layer.inputs, layer.outputs) < 2)
    return too_small(layer.columns, layer.outputs, smallest) if few else ""


def too_small(inputs: int, outputs: int, smallest: int) -> str:
    """Return why a weight of so many numbers is left alone, and what would have it split."""
    if inputs * outputs >= smallest:
        return f"it is one row of numbers: {inputs} x {outputs}"
    return f"too small: {inputs} x {outputs}, and smallest is {smallest}"


def _quantized(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if not has(node, Trait.COMPOSES):
            continue
        for value in node.inputs[:2]:
            maker = None if value is None else value.producer()
            if maker is not None and has(maker, Trait.DEQUANTIZES) and constant(maker.inputs[0]) is not None:
                yield node


def _strange_bias(use: Contraction) -> str:
    """Return why the own bias of a node cannot be added behind factors; empty where it can, or where there is none."""
    bias = use.bias
    if bias is None or bias.vector is not None:
        return ""
    return "its bias is not constant" if constant(bias.value) is None else "its bias is not one number for each output"
