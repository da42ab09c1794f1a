"""Stored weights with the nodes that multiply by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.arrays import Floats


@dataclasses.dataclass(frozen=True)
class LinearLayer:
    """A stored weight, and the nodes that multiply by it."""

    weight: ir.Value
    uses: tuple[Contraction, ...]
    """At least one; they may read it differently."""

    @property
    def first(self) -> Contraction:
        """The first use."""
        return self.uses[0]

    @property
    def node(self) -> ir.Node:
        """The first node."""
        return self.first.node

    @property
    def name(self) -> str:
        """Its name in notes."""
        return label(self.node)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The sizes of the window; empty for products of matrices."""
        return self.first.kernel

    @property
    def inputs(self) -> int:
        """Channels of the data that each output is a sum over."""
        return self.first.channels

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.first.outputs

    @property
    def columns(self) -> int:
        """Weights of each output."""
        return self.first.columns

    @property
    def parameters(self) -> int:
        """Elements of the weight."""
        return self.columns * self.outputs

    def matrix(self) -> Floats:
        """Return the weight, shape [columns, outputs], the columns as (channel, *kernel)."""
        return self.first.matrix()


def linear_layers(nodes: Iterable[ir.Node]) -> list[LinearLayer]:
    """Return the layers among `nodes`, in their order."""
    uses: dict[ir.Value, list[Contraction]] = {}
    for contraction in contractions(nodes):
        uses.setdefault(contraction.weight, []).append(contraction)
    return [LinearLayer(weight, tuple(own)) for weight, own in uses.items()]


def label(node: ir.Node) -> str:
    """Return the name of a node in notes."""
    return node.name or node.outputs[0].name or node.op_type
