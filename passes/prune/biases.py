"""Adds to the biases of contractions what channels that go have added so far."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.graph.constants import constant, fresh_name, new_initializer
from onnxslim.graph.contraction import Contraction
from onnxslim.graph.coupling import Coupling
from onnxslim.graph.labels import Mask

ADDITIONS = frozenset({("", "Add")})
"""Ops that add a bias to what a node without one makes."""


def output_letters(read: Contraction) -> tuple[str, ...]:
    """Return the factors of the output that a bias belongs to; those of the last axis where the op has no bias."""
    if read.result:
        return read.result
    last = next((operand.dimensions[-1] for operand in read.fitted.signature.outputs if operand.dimensions), None)
    return () if last is None or last.ellipsis or not set(last.factors) <= set(read.letters) else last.factors


def bias_place(read: Contraction) -> tuple[ir.Node, int] | None:
    """Return the node and the input where the bias of a contraction is, or would be.

    Returns:
        None where there is none to write to: it is computed, shared, laid out along more than the output channels, or
        scaled, or nothing is added to what an op without bias makes.
    """
    letters = output_letters(read)
    if not letters or "activation" in read.node.attributes:
        return None
    if any(read.node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return None
    node, index = read.node, read.bias_index
    if index is None:
        output = node.outputs[0]
        uses = list(output.uses())
        if len(uses) != 1 or output.is_graph_output() or (uses[0].node.domain, uses[0].node.op_type) not in ADDITIONS:
            return None
        node, index = uses[0].node, 1 - uses[0].idx
    elif index >= len(node.inputs) or node.inputs[index] is None:
        return node, index
    value = node.inputs[index]
    held = constant(value)
    count = math.prod(size for letter, size in zip(read.letters, read.sizes, strict=True) if letter in letters)
    if value is None or held is None or len(value.uses()) != 1 or not value.is_initializer():
        return None
    return (node, index) if held.ndim and held.size == count == held.shape[-1] else None


def add_to_bias(
    graph: ir.Graph, coupling: Coupling, read: Contraction, shift: npt.NDArray[np.float64], gone: Mask
) -> bool:
    """Add `shift` to the bias of a contraction.

    Args:
        graph: Its graph.
        coupling: The coupled axes, of before the cut.
        read: The contraction.
        shift: What to add, shape [output channels], before the cut.
        gone: The labels that will be cut. A new bias, which the coupling does not know, is cut here.

    Returns:
        Whether there was a bias to add to, or to be made.
    """
    place = bias_place(read)
    if place is None:
        return False
    node, index = place
    bias = node.inputs[index] if index < len(node.inputs) else None
    held = constant(bias)
    if bias is not None and held is not None:
        total = (held.astype(np.float64).ravel() + shift).reshape(held.shape).astype(held.dtype)
        bias.const_value = ir.tensor(total, name=bias.name)
        return True
    weight = constant(read.weight)
    assert weight is not None
    labels = _output_labels(coupling, read)
    left = shift if labels is None else shift[~gone[labels]]
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    name = fresh_name(graph, f"{node.outputs[0].name}_bias")
    node.replace_input_with(index, new_initializer(graph, name, left.astype(weight.dtype)))
    return True


def _output_labels(coupling: Coupling, read: Contraction) -> npt.NDArray[np.int64] | None:
    """Return the labels along the axis of the output that the bias belongs to."""
    output, wanted = read.node.outputs[0], output_letters(read)
    axes = read.fitted.signature.outputs[0].axes(len(output.shape or ()))
    axis = next((at for at, (dimension, _) in enumerate(axes) if dimension.factors == wanted), None)
    return None if axis is None else coupling.of(output, axis)
