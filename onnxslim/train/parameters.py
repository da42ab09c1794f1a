"""Which weights of a model are trained, and which of their elements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from onnxslim.analysis.linear_layer import linear_layers
from onnxslim.arrays import Array
from onnxslim.model.constants import constant_tensor
from onnxslim.ops.binding import input_index
from onnxslim.ops.traits import Trait, having
from onnxslim.train.sparsity import moving_elements

SCALES = ("scale", "b")
"""The operands of a normalization that are learned; the statistics of a BatchNormalization stay as they are."""


def trainable_parameters(graph: ir.Graph) -> list[ir.Value]:
    """Return the initializers of a graph that a model learns, each once: weights of layers and their biases, scales
    and shifts of normalizations. Other constants (masks, means of pixels, shapes) say what a model is, and stay."""
    found = dict.fromkeys(value for value in _parameters(graph) if _is_stored(value))
    return [value for value in found if value is not None]


def moving_parts(graph: ir.Graph, names: Iterable[str]) -> Mapping[str, Array]:
    """Return for each initializer of these names that was made sparse which of its elements move."""
    tensors = {name: constant_tensor(graph.initializers[name]) for name in names}
    masks = {name: moving_elements(tensor.numpy()) for name, tensor in tensors.items() if tensor is not None}
    return {name: mask for name, mask in masks.items() if mask is not None}


def _parameters(graph: ir.Graph) -> Iterator[ir.Value | None]:
    for layer in linear_layers(graph):
        yield layer.weight
        for use in layer.uses:
            bias = use.bias
            yield None if bias is None else bias.value
    for node in having([graph], Trait.NORMALIZES_AND_SCALES):
        for name in SCALES:
            index = input_index(node, name)
            yield node.inputs[index] if index is not None and index < len(node.inputs) else None


def _is_stored(value: ir.Value | None) -> bool:
    """Whether a value is an initializer of real numbers that nobody overrides or gives out."""
    if value is None or not value.is_initializer() or value.is_graph_input() or value.is_graph_output():
        return False
    tensor = constant_tensor(value)
    return tensor is not None and tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
