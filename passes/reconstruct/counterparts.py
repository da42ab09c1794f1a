"""Which value of the float form a value of a quantized model stands for."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.ops.traits import Trait, has


class Counterparts:
    """Finds values of a float model by those of the quantized one.

    Between Q and DQ a value stands for what is rounded; a clamp in front of it, whose work the rounding does, is in the
    float model alone.

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
        source = value
        while source.name not in self._floats:
            maker = source.producer()
            if maker is None or not (has(maker, Trait.QUANTIZES) or has(maker, Trait.DEQUANTIZES)):
                return None
            before = maker.inputs[0]
            if before is None:
                return None
            source = before
        return self._behind_clamps(self._floats[source.name or ""])

    def _behind_clamps(self, value: ir.Value) -> ir.Value:
        """Return what is left of a value behind the nodes that the quantized model has no more."""
        while True:
            readers = {use.node for use in value.uses()}
            if len(readers) != 1 or value.is_graph_output():
                return value
            (node,) = readers
            behind = node.outputs[0]
            if not has(node, Trait.ELEMENTWISE) or behind.name in self._names:
                return value
            value = behind
