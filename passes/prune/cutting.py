"""Cuts channels out of a model: weights, biases, statistics, attributes, and the lengths that ops hold as data."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.labels import Mask
from onnxslim.model.edit import drop_unused
from onnxslim.model.nesting import nodes_within
from onnxslim.ops.binding import dimensions
from onnxslim.ops.parameters import attribute

from .resize import rewrite_lengths


def cut(model: ir.Model, coupling: Coupling, gone: Mask) -> None:
    """Remove the labels `gone` wherever they occur in the main graph of `model`, in place.

    Args:
        model: The model that `coupling` was made of.
        coupling: Its coupled axes. It describes the model before the cut, and is of no use afterwards.
        gone: For each label whether it goes; see `Labels.removed`.
    """
    rewrite_lengths(model, coupling, gone)
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
