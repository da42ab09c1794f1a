"""Cuts channels out of a model: weights, biases, statistics, attributes, and the lengths that ops hold as data."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.analysis.coupling import Coupling
from onnxslim.arrays import Floats, Mask
from onnxslim.model.edit import Editor, drop_unused
from onnxslim.model.nesting import nodes_within
from onnxslim.ops.binding import dimensions
from onnxslim.ops.cut import Cut
from onnxslim.ops.parameters import attribute, op_of
from onnxslim.ops.table import find_op


def cut(model: ir.Model, coupling: Coupling, gone: Mask) -> None:
    """Remove the labels `gone` (see `Labels.removed`) wherever they occur in the main graph of `model`, in place.

    `coupling` was made of the model before the cut, and is of no use afterwards.
    """
    _rewrite_lengths(model, coupling, gone)
    for node in coupling.fitted:
        _rewrite_attributes(node, coupling, gone)
    for value in list(coupling.relations.values()):
        every = ((axis, size, coupling.kept(value, axis, gone)) for axis, size in enumerate(dimensions(value) or ()))
        kept = {axis: stays for axis, size, stays in every if stays is not None and len(stays) != size}
        if not kept:
            continue
        if value.is_initializer() and value.const_value is not None:
            array = value.const_value.numpy()
            for axis, places in kept.items():
                array = np.take(array, places, axis=axis)
            value.const_value = ir.Tensor(array, dtype=value.const_value.dtype, name=value.name)
            value.shape = ir.Shape(array.shape)
        elif value.shape is not None:
            value.shape = ir.Shape(len(kept[axis]) if axis in kept else size for axis, size in enumerate(value.shape))
    for node in nodes_within(model.graph):
        for value in node.outputs:
            value.const_value = None  # what shape inference knew of its elements may have changed
    drop_unused(model.graph)


def add_to_bias(editor: Editor, coupling: Coupling, read: Contraction, shift: Floats, gone: Mask) -> bool:
    """Add to the bias of a contraction, before the cut, what channels that go have added so far.

    Args:
        editor: Of its model.
        coupling: The coupled axes.
        read: The contraction.
        shift: What to add, shape [output channels].
        gone: The labels that will be cut. A new bias, which the coupling does not know, is cut here.

    Returns:
        Whether it was done: not where the bias is not `free`.
    """
    bias, axis = read.bias, read.output_axis
    if bias is None or not bias.free or bias.vector is None:
        return False
    labels = None if bias.value is not None or axis is None else coupling.of(read.node.outputs[0], axis)
    bias.write(editor, bias.vector + shift if labels is None else shift[~gone[labels]])
    return True


def _rewrite_lengths(model: ir.Model, coupling: Coupling, gone: Mask) -> None:
    """Rewrite what the nodes of the main graph hold as lengths and places, as if the labels `gone` were cut already."""

    def stays(value: ir.Value, axis: int) -> Mask | None:
        labels = coupling.of(value, axis)
        return None if labels is None else ~gone[labels]

    def shrinks(value: ir.Value | None) -> bool:
        axes = () if value is None else coupling.relations.values().get(value, ())
        return any((labels := coupling.of_axis(axis)) is not None and bool(gone[labels].any()) for axis in axes)

    cut = Cut(Editor(model), stays)
    for node in list(model.graph):
        resize = find_op(op_of(node)).resize
        if resize is not None and any(map(shrinks, (*node.inputs, *node.outputs))):
            resize(cut, node)


def _rewrite_attributes(node: ir.Node, coupling: Coupling, gone: Mask) -> None:
    """Write the attributes that are sizes of factors anew, and those whose defaults follow from sizes as they were."""
    fitted, bound = coupling.fitted[node]
    signature = fitted.signature

    def left(factor: str) -> int:
        axis = bound.get((factor, 0))
        labels = None if axis is None else coupling.of_axis(axis)
        return fitted.size(factor) if labels is None else int((~gone[labels]).sum())

    for name, factors in signature.binds:
        if any(left(factor) != fitted.size(factor) for factor in factors):
            node.attributes[name] = ir.AttrInt64(name, math.prod(map(left, factors)))
    for name, factors in signature.scales:
        if any(left(factor) != fitted.size(factor) for factor in factors) and not attribute(node, name):
            whole = math.prod(map(fitted.size, factors))
            node.attributes[name] = ir.AttrFloat32(name, float(whole) ** -0.5)
