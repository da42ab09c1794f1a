"""What is at stake in a group of channels: the tensors that they run through, and what they cost."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.coupling import ChannelGroup, Coupling
from onnxslim.analysis.labels import Mask
from onnxslim.ops.binding import BoundSignature, FactorKey


@dataclasses.dataclass(frozen=True)
class GroupCost:
    """What removing channels of one group saves; symbolic dimensions count as 1."""

    weights: int
    """Initializers that lose places with a channel."""
    tensors: int
    """Values that lose places, initializers included."""
    macs_per_channel: int
    """MACs that go with the first channel."""
    macs: int
    """MACs that go with all channels but one."""
    parameters: int
    """Elements of weights that go with all channels but one."""


def stakes(coupling: Coupling, groups: Sequence[ChannelGroup]) -> Iterator[GroupCost]:
    """Yield what is at stake in each group, as if it were the only one to be cut."""
    relations = coupling.relations
    nodes: dict[int, list[ir.Node]] = collections.defaultdict(list)
    for node, (_, bound) in coupling.fitted.items():
        for axis in {relations.find(axis) for axis in bound.values()}:
            nodes[axis].append(node)
    values: dict[int, list[ir.Value]] = collections.defaultdict(list)
    for value, axes in relations.values().items():
        for axis in {relations.find(axis) for axis in axes}:
            values[axis].append(value)
    weights = {value for value, _ in coupling.weights()}
    lies = _axes_of(coupling, groups)
    for number, group in enumerate(groups):
        some = coupling.labels.removed(group.roots[:1])
        most = coupling.labels.removed(group.roots[1:])
        own = lies[number]
        readers = {node: None for axis in own for node in nodes[axis]}
        shrinking = {value: None for axis in own for value in values[axis]}
        held = [value for value in shrinking if value in weights]

        def lost(gone: Mask, readers: Mapping[ir.Node, None] = readers) -> int:
            return sum(
                fitted.macs() - _macs_left(coupling, fitted, bound, gone)
                for fitted, bound in (coupling.fitted[node] for node in readers)
            )

        yield GroupCost(
            weights=len(held),
            tensors=len(shrinking),
            macs_per_channel=lost(some),
            macs=lost(most),
            parameters=sum(_elements(coupling, value, None) - _elements(coupling, value, most) for value in held),
        )


def _axes_of(coupling: Coupling, groups: Sequence[ChannelGroup]) -> list[list[int]]:
    """Return for each group the axes that its channels lie in."""
    number = {int(root): at for at, group in enumerate(groups) for root in group.roots}
    lies: list[list[int]] = [[] for _ in groups]
    for axis in coupling.labels.start:
        own = coupling.of_axis(axis)
        if own is not None:
            for at in {number[root] for root in coupling.labels.bases(own)[1].tolist() if root in number}:
                lies[at].append(axis)
    return lies


def _macs_left(coupling: Coupling, fitted: BoundSignature, bound: Mapping[FactorKey, int], gone: Mask) -> int:
    lengths = {
        key: _length(coupling, axis, gone, fitted.sizes.get(key, 1))
        for key, axis in bound.items()
        if not key[0].isdigit()
    }
    return sum(
        math.prod(
            int(letter) if letter.isdigit() else math.prod(size for key, size in lengths.items() if key[0] == letter)
            for letter in term
        )
        for term in fitted.signature.macs
    )


def _length(coupling: Coupling, axis: int, gone: Mask, otherwise: int) -> int:
    labels = coupling.of_axis(axis)
    return otherwise if labels is None else int((~gone[labels]).sum())


def _elements(coupling: Coupling, value: ir.Value, gone: Mask | None) -> int:
    assert value.const_value is not None
    sizes = [size for size in value.const_value.shape if isinstance(size, int)]
    if gone is None:
        return math.prod(sizes)
    axes = coupling.relations.values()[value]
    return math.prod(_length(coupling, axis, gone, size) for axis, size in zip(axes, sizes, strict=True))
