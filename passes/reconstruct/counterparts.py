"""Which value of the float form a value of a quantized model stands for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.quantized import level_ends
from onnxslim.model.constants import constant
from onnxslim.ops.traits import Trait, has


class Counterparts:
    """Finds values of a float model by those of the quantized one.

    Between Q and DQ a value stands for what is rounded; a clamp in front of it, whose work the rounding does, is in the
    float model alone. Levels that are read on another scale stand for what an op of the float model alone makes of it.

    Args:
        model: In QDQ form.
        floats: Its float form.
    """

    def __init__(self, model: ir.Model, floats: ir.Model) -> None:
        self._names = {value.name for node in model.graph for value in node.outputs}
        self._floats = {value.name or "": value for value in floats.graph.inputs}
        self._floats |= {value.name or "": value for node in floats.graph for value in node.outputs}

    def of(self, value: ir.Value) -> ir.Value | None:
        """Return the value of the float model; None where none is known."""
        if value.name in self._floats:
            return self._floats[value.name]
        source, read, rescaled = value, None, False
        while source.name not in self._floats:
            maker = source.producer()
            if maker is None or maker.inputs[0] is None:
                return None
            if has(maker, Trait.DEQUANTIZES):
                read = _scale(maker)
            elif has(maker, Trait.QUANTIZES):
                rescaled = read is not None and read != _scale(maker)
            elif level_ends(maker) is None:
                return None
            source = maker.inputs[0]
        found = self._floats[source.name or ""]
        return self._alone(found) if rescaled else self._behind_clamps(found)

    def _alone(self, value: ir.Value) -> ir.Value | None:
        """Return what the one node makes of a value that the quantized model has no more."""
        gone = [node.outputs[0] for node in {use.node for use in value.uses()} if self._is_gone(node)]
        return gone[0] if len(gone) == 1 else None

    def _behind_clamps(self, value: ir.Value) -> ir.Value:
        """Return what is left of a value behind the nodes that the quantized model has no more."""
        while True:
            readers = {use.node for use in value.uses()}
            if len(readers) != 1 or value.is_graph_output():
                return value
            (node,) = readers
            if not self._is_gone(node):
                return value
            value = node.outputs[0]

    def _is_gone(self, node: ir.Node) -> bool:
        return has(node, Trait.ELEMENTWISE) and node.outputs[0].name not in self._names


def _scale(node: ir.Node) -> list[list[float]]:
    """Return the scale and the zero point of a node, each as the numbers that are in it."""
    return [np.unique(array).tolist() for value in node.inputs[1:] if (array := constant(value)) is not None]
