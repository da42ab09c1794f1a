"""Symbolic sizes of inputs that weights fix: the data of a convolution has as many channels as its weight reads.

What an op says about axes stands in `ops.axes`; here the axes that are one share what any of them knows of its size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.axis_relations import AxisRelations
from onnxslim.analysis.coupling import relate
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.ops.binding import Dimensions

ROUNDS = 8
"""Rounds over what is written down about products; each tells at least one size, or ends it."""


class SharedSizes(AxisRelations):
    """Relations in which a size that is known of one axis is known of all that are one with it."""

    def __init__(self) -> None:
        super().__init__()
        self._factors: list[tuple[int, tuple[int, ...]]] = []

    def shape(self, value: ir.Value) -> Dimensions | None:
        """Return the sizes of the axes of `value`, as far as any of the axes that are one with them is known."""
        axes = self.axes(value)
        return None if axes is None else tuple(self.sizes[self.find(axis)] for axis in axes)

    def equate(self, left: int, right: int, node: ir.Node | None) -> None:
        """Say that two axes are one, which have the size of either."""
        left, right = self.find(left), self.find(right)
        if left != right and None in (self.sizes[left], self.sizes[right]):
            size = self.sizes[right] if self.sizes[left] is None else self.sizes[left]
            self.sizes[left] = self.sizes[right] = size
        super().equate(left, right, node)

    def multiply(self, whole: int, factors: Sequence[int], node: ir.Node | None) -> None:
        """Say that `whole` is the product of `factors`: of these sizes one follows from the others."""
        self._factors.append((whole, tuple(factors)))

    def settle(self) -> None:
        """Work out of every product the size that follows from the others, until nothing follows any more."""
        for _ in range(ROUNDS):
            found = [self._follows(whole, factors) for whole, factors in self._factors]
            if not any(found):
                return

    def _follows(self, whole: int, factors: Sequence[int]) -> bool:
        whole, total = self.find(whole), self.sizes[self.find(whole)]
        unknown = [factor for factor in map(self.find, factors) if self.sizes[factor] is None]
        known = math.prod(self.sizes[self.find(factor)] or 1 for factor in factors)
        if total is None and not unknown:
            self.sizes[whole] = known
            return True
        if total is not None and len(unknown) == 1 and total % known == 0:
            self.sizes[unknown[0]] = total // known
            return True
        return False


def tied_sizes(model: ir.Model) -> Mapping[tuple[str, int], int]:
    """Return the sizes that weights fix: (graph input, axis) -> size, for axes that are declared symbolic.

    Args:
        model: Not changed.
    """
    clone = model.clone()
    infer_shapes(clone)
    relations = SharedSizes()
    relate(clone.graph, relations)
    relations.settle()
    sizes: dict[tuple[str, int], int] = {}
    for value, copied in zip(model.graph.inputs, clone.graph.inputs, strict=True):
        for index, (declared, axis) in enumerate(zip(value.shape or (), relations.axes(copied) or (), strict=True)):
            size = relations.sizes[relations.find(axis)]
            if not isinstance(declared, int) and size is not None:
                sizes[value.name or "", index] = size
    return sizes
