"""The metric of the output of a layer that is multiplied by another computed value, as queries by keys.

Where y is rearranged into heads and multiplied by another computed value B, the error of the products is B'e for each
head, and its energy e'Me with M = E[BB'], one block for each head. Where a softmax follows, what all keys have in
common does not matter: B is taken about its mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.bias import only_use
from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.arrays import Array, Floats
from onnxslim.model.constants import constant
from onnxslim.ops.binding import BoundSignature, bind
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has
from onnxslim.runtime.session import Session

LONGEST = 8
"""Nodes between a layer and the product, at most."""


@dataclasses.dataclass
class AttentionProduct:
    """A product of what a layer gives and another value."""

    path: ir.Model
    """Makes of what the layer gives the factor of the product."""
    other: str
    """The other factor."""
    left: bool
    """The layer makes the left factor."""
    centred: bool
    """A softmax over the other factor's places follows."""
    axis: int
    """The axis of the channels of the output of the layer."""
    _session: Session | None = None

    def moment(self, result: Array, other: Array, open_session: Callable[..., Session]) -> Floats:
        """Return the sum over places of M, shape [outputs, outputs], for what the layer gave and the other factor.

        Raises:
            RunError: What lies between does not run.
        """
        channels, scales = self._channels(result[:1].shape, open_session)
        factors = (other if self.left else np.swapaxes(other, -1, -2)).astype(np.float64)  # [..., k, places]
        if self.left and self.centred:
            factors = factors - factors.mean(axis=-1, keepdims=True)
        total = np.zeros((result.shape[self.axis],) * 2)
        if factors.shape[1:-1] != channels.shape or not scales.all():
            return np.eye(len(total))  # heads share what they are compared with, or some are multiplied by nothing
        if len(np.unique(channels)) != channels.size:
            return np.eye(len(total))  # what is summed over is not the channels: values, and the weights of places
        for head in np.ndindex(channels.shape[:-1]):
            part = factors[(slice(None), *head)] * scales[head][:, None]
            total[np.ix_(channels[head], channels[head])] += np.einsum("bip,bjp->ij", part, part, optimize=True)
        return total

    def _channels(self, shape: tuple[int, ...], open_session: Callable[..., Session]) -> tuple[Array, Floats]:
        """Return which channel each element of a head is, and what it is multiplied by; shapes [..., k]."""
        if self._session is None:
            self._session = open_session(self.path)
        places = [1] * len(shape)
        places[self.axis] = shape[self.axis]
        numbers = np.broadcast_to(np.arange(shape[self.axis], dtype=np.float32).reshape(places), shape)
        name = self._session.inputs[0].name
        none, ones, both = (
            next(iter(self._session.run({name: np.ascontiguousarray(each)}).values())).astype(np.float64)
            for each in (np.zeros(shape, np.float32), np.ones(shape, np.float32), numbers)
        )
        scales = ones - none
        channels = np.rint((both - none) / np.where(scales == 0, 1, scales)).astype(np.int64)
        pick = (0, ..., 0, slice(None)) if self.left else (0, ..., slice(None), 0)
        return channels[pick], scales[pick]


def find_comparisons(graph: ir.Graph, layers: Iterable[LinearLayer]) -> dict[str, AttentionProduct]:
    """Return for layers, by name, what they are compared with, where they are read by nothing else."""
    found = {layer.name: _comparison(graph, layer) for layer in layers if len(layer.uses) == 1}
    return {name: comparison for name, comparison in found.items() if comparison is not None}


def _comparison(graph: ir.Graph, layer: LinearLayer) -> AttentionProduct | None:
    start = value = layer.node.outputs[0]
    axis = layer.first.output_axis
    if start.shape is None or start.dtype != ir.DataType.FLOAT or axis is None:
        return None
    for _ in range(LONGEST):
        use = only_use(value)
        if use is None:
            return None
        node, index = use
        others = [operand for place, operand in enumerate(node.inputs) if place != index and operand is not None]
        bound = bind(node)
        if bound is not None and _is_product(bound):
            other = others[0]
            if constant(other) is not None or value is start or len(other.shape or ()) != len(value.shape or ()):
                return None
            inner = ir.convenience.extract(graph, [start], [value])
            inner.inputs[0].shape = ir.Shape([None] * len(start.shape))
            inner.outputs[0].shape = None
            path = ir.Model(inner, ir_version=10)
            return AttentionProduct(path, other.name or "", index == 0, _normalised(node.outputs[0]), axis)
        scales = has(node, Trait.AFFINE) and (index == 0 or has(node, Trait.COMMUTATIVE))
        if not (has(node, Trait.REARRANGEMENT) or scales) or any(constant(operand) is None for operand in others):
            return None
        value = node.outputs[0]
    return None


def _is_product(bound: BoundSignature) -> bool:
    """Whether a node multiplies two values, summed over the last axis of the left and the last but one of the right."""
    operands = bound.signature.inputs
    if not bound.signature.macs or len(operands) != 2 or any(len(operand.dimensions) < 2 for operand in operands):
        return False
    left, right = operands[0].dimensions[-1], operands[1].dimensions[-2]
    return not left.ellipsis and left.factors == right.factors


def _normalised(value: ir.Value) -> bool:
    """Whether a softmax along the last axis reads a value, behind functions of single elements."""
    for _ in range(LONGEST):
        use = only_use(value)
        if use is None:
            return False
        node, _ = use
        if has(node, Trait.IGNORES_SHIFTS):
            return attribute(node, "axis") in (-1, len(value.shape or ()) - 1)
        if not has(node, Trait.ELEMENTWISE):
            return False
        value = node.outputs[0]
    return False
