"""Multiplies two factors out again where their product holds no more parameters than they do: a rank that is full.

y = B'(A'x + a) + b is (AB)'x + (B'a + b). Of two convolutions one has a window of 1, no strides and no padding; where
it comes first and has a bias, the other must not pad either, for it would pad with zeros and not with the bias.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.arrays import Floats
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, drop_unused, take_over
from onnxslim.ops.parameters import attribute
from onnxslim.pipeline.interface import Note
from onnxslim.pipeline.selection import EVERYTHING, Selection

from .layer import find_layers


@dataclasses.dataclass(frozen=True)
class Product:
    """The layer that two layers in a row amount to."""

    stored: Floats
    """The weight as it is stored."""
    bias: Floats | None
    host: ir.Node
    """The node whose op and attributes the product has."""


def fuse(model: ir.Model, selection: Selection = EVERYTHING) -> list[Note]:
    """Multiply out what can be, in place, and say what was done. The outputs stay the same but for rounding."""
    notes: list[Note] = []
    editor = Editor(model)
    while (pair := _pair(model, selection)) is not None:
        first, second, product = pair
        before = first.parameters + second.parameters
        _write(editor, first, second, product)
        notes.append(
            Note(second.name, f"multiplied out: {before} -> {product.stored.size} parameters", "its rank is full")
        )
    return notes


def _pair(model: ir.Model, selection: Selection) -> tuple[LinearLayer, LinearLayer, Product] | None:
    layers = [layer for layer in find_layers(model, selection, smallest=1)[0] if len(layer.uses) == 1]
    makers = {layer.node: layer for layer in layers}
    for second in layers:
        data = second.first.data
        maker = data.producer()
        first = makers.get(maker) if maker is not None else None
        if first is None or len(data.uses()) != 1 or data.is_graph_output():
            continue
        if first.weight.dtype != second.weight.dtype or bool(first.kernel) != bool(second.kernel):
            continue
        product = _of_convolutions(first, second) if second.kernel else _of_matrices(first, second)
        if product is not None and product.stored.size <= first.parameters + second.parameters:
            return first, second, product
    return None


def _of_matrices(first: LinearLayer, second: LinearLayer) -> Product | None:
    if not first.first.weight_index or not second.first.weight_index or attribute(second.node, "transA"):
        return None
    # A Gemm works on matrices alone, and so does whatever stands beside one; it has a place for a bias.
    hosts = [layer for layer in (first, second) if layer.first.own_bias is not None]
    host = hosts[0] if hosts else second
    if attribute(first.node, "transA") and host is not first:
        return None
    matrix = first.matrix() @ second.matrix()
    total = _bias(first) @ second.matrix() + _bias(second) if hosts else None
    return Product(matrix.T if host.first.outputs_first else matrix, total, host.node)


def _of_convolutions(first: LinearLayer, second: LinearLayer) -> Product | None:
    one, two = first.matrix(), second.matrix()
    before, after = _bias(first), _bias(second)
    if _narrow(second):
        matrix = one @ two
        stored = matrix.T.reshape(second.outputs, first.inputs, *first.kernel)
        return Product(stored, before @ two + after, first.node)
    window = second.first.window
    if not _narrow(first) or (before.any() and (window is None or window.padded)):
        return None
    windows = two.reshape(second.inputs, -1, second.outputs)
    matrix = np.einsum("ir,rto->ito", one, windows).reshape(-1, second.outputs)
    stored = matrix.T.reshape(second.outputs, first.inputs, *second.kernel)
    return Product(stored, np.einsum("r,rto->o", before, windows) + after, second.node)


def _narrow(layer: LinearLayer) -> bool:
    """Whether a convolution works on channels alone."""
    window = layer.first.window
    return window is not None and max(*window.kernel, *window.strides) == 1 and not window.padded


def _bias(layer: LinearLayer) -> Floats:
    bias = layer.first.own_bias
    return np.zeros(layer.outputs) if bias is None or bias.vector is None else bias.vector


def _write(editor: Editor, first: LinearLayer, second: LinearLayer, product: Product) -> None:
    array = constant(second.weight)
    assert array is not None
    weight = editor.initializer(f"{first.weight.name}_multiplied", product.stored.astype(array.dtype))
    inputs: list[ir.Value | None] = [first.node.inputs[0], weight]
    if product.bias is not None and (len(first.node.inputs) > 2 or len(second.node.inputs) > 2 or product.bias.any()):
        inputs.append(editor.initializer(f"{second.node.outputs[0].name}_bias", product.bias.astype(array.dtype)))
    host, node, graph = product.host, second.node, editor.graph
    made = ir.Node("", host.op_type, inputs, list(host.attributes.values()), name=node.name)
    before = [*first.node.inputs[1:], *node.inputs[1:]]
    graph.insert_before(node, made)
    take_over(made.outputs[0], node.outputs[0])
    graph.remove([node, first.node], safe=True)
    drop_unused(graph, before)
