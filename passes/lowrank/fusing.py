"""Multiplies two factors out again where their product holds no more parameters than they do: a rank that is full.

y = B'(A'x + a) + b is (AB)'x + (B'a + b). Of two convolutions one has a window of 1, no strides and no padding; where
it comes first and has a bias, the other must not pad either, for it would pad with zeros and not with the bias.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, drop_unused, take_over
from onnxslim.ops.parameters import attribute, op_of
from onnxslim.pipeline.interface import Note
from onnxslim.pipeline.selection import EVERYTHING, Selection

from .layer import WeightLayer, find_layers

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Product:
    """What two layers amount to."""

    stored: Array
    """The weight as it is stored."""
    bias: Array | None
    host: ir.Node
    """The node whose op and attributes the product has."""


def fuse(model: ir.Model, selection: Selection = EVERYTHING) -> list[Note]:
    """Multiply out what can be, in place, and say what was done. The outputs stay the same but for rounding.

    Args:
        model: The model.
        selection: Which factors.
    """
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


def _pair(model: ir.Model, selection: Selection) -> tuple[WeightLayer, WeightLayer, Product] | None:
    layers = [layer for layer in find_layers(model, selection, smallest=1)[0] if len(layer.sites) == 1]
    makers = {layer.node: layer for layer in layers}
    for second in layers:
        data = second.sites[0].data
        maker = data.producer()
        first = makers.get(maker) if maker is not None else None
        if (
            first is None
            or len(data.uses()) != 1
            or data.is_graph_output()
            or first.weight.dtype != second.weight.dtype
        ):
            continue
        multiply = _MULTIPLY.get((op_of(first.node), op_of(second.node)))
        product = multiply(first, second) if multiply is not None else None
        if product is not None and product.stored.size <= first.parameters + second.parameters:
            return first, second, product
    return None


def _of_matrices(first: WeightLayer, second: WeightLayer) -> Product | None:
    if not first.weight_index or not second.weight_index or attribute(second.node, "transA"):
        return None
    matrix = first.matrix() @ second.matrix()
    # A Gemm works on matrices alone, and so does whatever stands beside one; it has a place for a bias.
    hosts = [layer for layer in (first, second) if layer.sites[0].bias is not None and layer.sites[0].bias.own]
    if any(len(layer.node.inputs) > 2 and layer not in hosts for layer in (first, second)):
        return None  # its bias is computed, or shared
    host = hosts[0] if hosts else second
    if attribute(first.node, "transA") and host is not first:
        return None
    bias = _bias(second) if not hosts or second in hosts else np.zeros(second.outputs)
    if host is second and attribute(first.node, "transA"):
        return None
    total = _bias(first) @ second.matrix() + bias if hosts else None
    return Product(matrix.T if host.transposed else matrix, total, host.node)


def _of_convolutions(first: WeightLayer, second: WeightLayer) -> Product | None:
    own = [layer.sites[0].bias is not None for layer in (first, second)]
    if not all(own):
        return None
    one, two = first.matrix(), second.matrix()
    before, after = _bias(first), _bias(second)
    if _narrow(second):
        matrix = one @ two
        stored = matrix.T.reshape(second.outputs, first.inputs, *first.kernel)
        return Product(stored, before @ two + after, first.node)
    if not _narrow(first) or (before.any() and any(second.pads)):
        return None
    windows = two.reshape(second.inputs, -1, second.outputs)
    matrix = np.einsum("ir,rto->ito", one, windows).reshape(-1, second.outputs)
    stored = matrix.T.reshape(second.outputs, first.inputs, *second.kernel)
    return Product(stored, np.einsum("r,rto->o", before, windows) + after, second.node)


_OPS = [("", "MatMul"), ("", "Gemm")]
_MULTIPLY: dict[tuple[tuple[str, str], tuple[str, str]], Callable[[WeightLayer, WeightLayer], Product | None]] = {
    **{(one, other): _of_matrices for one in _OPS for other in _OPS},
    (("", "Conv"), ("", "Conv")): _of_convolutions,
}


def _narrow(layer: WeightLayer) -> bool:
    """Whether a convolution works on channels alone."""
    return max(layer.kernel) == 1 and max(layer.strides) == 1 and not any(layer.pads)


def _bias(layer: WeightLayer) -> Array:
    place = layer.sites[0].bias
    return place.held(layer.outputs) if place is not None and place.own else np.zeros(layer.outputs)


def _write(editor: Editor, first: WeightLayer, second: WeightLayer, product: Product) -> None:
    held = constant(second.weight)
    assert held is not None
    weight = editor.initializer(f"{first.weight.name}_multiplied", product.stored.astype(held.dtype))
    inputs: list[ir.Value | None] = [first.node.inputs[0], weight]
    if product.bias is not None and (len(first.node.inputs) > 2 or len(second.node.inputs) > 2 or product.bias.any()):
        inputs.append(editor.initializer(f"{second.node.outputs[0].name}_bias", product.bias.astype(held.dtype)))
    host, node, graph = product.host, second.node, editor.graph
    made = ir.Node("", host.op_type, inputs, list(host.attributes.values()), name=node.name)
    before = [*first.node.inputs[1:], *node.inputs[1:]]
    graph.insert_before(node, made)
    take_over(made.outputs[0], node.outputs[0])
    graph.remove([node, first.node], safe=True)
    drop_unused(graph, before)
