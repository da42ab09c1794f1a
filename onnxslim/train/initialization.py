"""Draws weights anew, for a training that begins without any.

Sources: K. He, X. Zhang, S. Ren and J. Sun, Delving Deep into Rectifiers (2015), section 2.2, for layers behind which a
rectifier halves what comes out; Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, Efficient BackProp (1998), section 4.6,
for all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer, linear_layers
from onnxslim.arrays import Array
from onnxslim.ops.binding import input_index
from onnxslim.ops.traits import Trait, has, having
from onnxslim.train.moving_statistics import STATISTICS, stored_statistics
from onnxslim.train.parameters import trainable_parameters

RECTIFIED, OTHER = 2.0, 1.0
"""The variance of a weight times the number of weights of an output."""


def drawn_weights(graph: ir.Graph, generator: np.random.Generator) -> Mapping[str, Array]:
    """Return new values of all that a model learns, by name, with the shapes and types that it has.

    Weights of layers are normal, with a variance of 2 over the number of weights of an output where a rectifier
    follows, and 1 over it elsewhere; scales are 1, and so are the variances of a BatchNormalization; biases, shifts and
    means are 0.
    """
    deviations = {layer.weight.name: _deviation(layer) for layer in linear_layers(graph)}
    ones = _operands(graph, "scale") | _operands(graph, STATISTICS[1])
    statistics = [graph.initializers[name] for name in stored_statistics(graph)]
    drawn: dict[str, Array] = {}
    for value in (*trainable_parameters(graph), *statistics):
        tensor, name = value.const_value, value.name or ""
        assert tensor is not None
        shape, dtype = tensor.shape.numpy(), tensor.dtype.numpy()
        if name in deviations:
            array = generator.standard_normal(shape) * deviations[name]
        else:
            array = np.full(shape, float(name in ones))
        drawn[name] = array.astype(dtype)
    return drawn


def _deviation(layer: LinearLayer) -> float:
    rectified = all(_is_rectified(use.node.outputs[0]) for use in layer.uses)
    return math.sqrt((RECTIFIED if rectified else OTHER) / layer.columns)


def _is_rectified(value: ir.Value) -> bool:
    """Whether all that reads a value, behind normalizations and sums, are rectifiers."""
    readers = list(_readers(value, set()))
    return bool(readers) and all(has(node, Trait.RECTIFIES) for node in readers)


def _readers(value: ir.Value, seen: set[ir.Value]) -> Iterator[ir.Node]:
    """Yield the nodes that read a value, seen through what changes no sign of all elements alike."""
    if value in seen:
        return
    seen.add(value)
    for node, _ in value.uses():
        if has(node, Trait.NORMALIZES_AND_SCALES) or has(node, Trait.ADDS):
            yield from _readers(node.outputs[0], seen)
        else:
            yield node


def _operands(graph: ir.Graph, name: str) -> set[str | None]:
    """Return the names of what normalizations read as one of their operands."""
    found: set[str | None] = set()
    for node in having([graph], Trait.NORMALIZES_AND_SCALES):
        index = input_index(node, name)
        value = node.inputs[index] if index is not None and index < len(node.inputs) else None
        found |= set() if value is None else {value.name}
    return found
