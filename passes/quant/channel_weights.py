"""How much an error in each channel of a value counts for the outputs: an estimate, from the outputs backwards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.rescaling import Rescaling
from onnxslim.arrays import Floats
from onnxslim.model.constants import constant


class ChannelWeights:
    """What errors in the channels of values count, relative to each other.

    An error that is independent in each channel goes through a weight by its squares, and through what passes factors
    on by their labels; a rectifier cuts off its share. Other ops spread it over all channels alike.

    Args:
        found: The model, and how its channels belong together.
        measured: What an error of variance 1 in all elements of a tensor brings, by its name, as far as it is known.
        alive: For the values that rectifiers make the share of each channel that is not cut off.
    """

    def __init__(self, found: Rescaling, measured: Mapping[str, float], alive: Mapping[ir.Value, Floats]) -> None:
        self._found, self._alive = found, alive
        self._known: dict[ir.Value, Floats] = {}
        for node in reversed(found.model.graph):
            for value in node.outputs:
                share, known = measured.get(value.name or ""), self._known.get(value)
                if share and known is not None and known.sum() > 0:
                    self._known[value] = known * (share / known.sum())
            self._backward(node)

    def of(self, value: ir.Value, size: int) -> Floats:
        """Return how much each channel of a value counts, shape [size]."""
        known = self._known.get(value)
        return np.ones(size) if known is None or len(known) != size or not known.any() else known

    def _backward(self, node: ir.Node) -> None:
        """Add what an error in what a node reads counts, by way of that node."""
        contraction = self._found.contractions.get(node)
        if contraction is not None:
            squares = contraction.blocks() ** 2
            groups, _, outputs = squares.shape
            made = self.of(node.outputs[0], groups * outputs).reshape(groups, outputs, 1)
            read = squares.reshape(groups, -1, contraction.channels, outputs).sum(axis=1) @ made
            self._add(contraction.data, read.reshape(-1))
            return
        product = self._found.products.get(node)
        vector = None if product is None else constant(product.vector)
        if product is not None and vector is not None:
            self._add(product.data, self.of(product.result, vector.size) * vector.ravel().astype(np.float64) ** 2)
            return
        for index in self._found.carried.get(node, ()):
            value = node.inputs[index]
            channels = None if value is None else self._found.channels(value)
            if value is None or channels is None:
                continue
            total = np.zeros(self._found.coupling.labels.count)
            for result in node.outputs:
                made_channels = self._found.channels(result)
                if made_channels is not None:
                    roots = made_channels[1]
                    np.add.at(total, roots, self.of(result, len(roots)) * self._alive.get(result, 1.0))
            self._add(value, total[channels[1]])

    def _add(self, value: ir.Value, counts: Floats) -> None:
        known = self._known.get(value)
        self._known[value] = counts if known is None or len(known) != len(counts) else known + counts
