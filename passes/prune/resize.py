"""Rewrites the lengths and places that ops hold as data, so that they fit the axes that were cut."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.coupling import Coupling
from onnxslim.analysis.labels import Mask
from onnxslim.model.edit import Editor
from onnxslim.ops.cut import Cut
from onnxslim.ops.parameters import op_of
from onnxslim.ops.table import find_op


def rewrite_lengths(model: ir.Model, coupling: Coupling, gone: Mask) -> None:
    """Rewrite what the nodes of the main graph hold as lengths and places, as if the labels `gone` were cut already."""

    def stays(value: ir.Value, axis: int) -> Mask | None:
        labels = coupling.of(value, axis)
        return None if labels is None else ~gone[labels]

    cut = Cut(Editor(model), stays)
    for node in list(model.graph):
        resize = find_op(op_of(node)).resize
        if resize is not None and any(_shrinks(coupling, value, gone) for value in (*node.inputs, *node.outputs)):
            resize(cut, node)


def _shrinks(coupling: Coupling, value: ir.Value | None, gone: Mask) -> bool:
    axes = () if value is None else coupling.relations.values().get(value, ())
    return any((labels := coupling.of_axis(axis)) is not None and bool(gone[labels].any()) for axis in axes)
