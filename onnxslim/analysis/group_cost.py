"""What removing channels of a group saves: MACs, parameters, and the tensors that the channels run through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.coupling import ChannelGroup, Coupling
from onnxslim.analysis.remaining_cost import Lengths, macs_left, weights_left
from onnxslim.arrays import Mask


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


def group_costs(model: ir.Model, coupling: Coupling, groups: Sequence[ChannelGroup]) -> Iterator[GroupCost]:
    """Yield what each group costs, as if it were the only one to be cut."""
    macs, parameters = macs_left(coupling), weights_left(coupling, model)
    nothing: Mask = np.zeros(coupling.labels.count, np.bool_)
    all_macs, all_parameters = macs(nothing), parameters(nothing)
    weights = {value for value, _ in coupling.weights()}
    lengths = Lengths(coupling)
    columns = {
        value: [column for axis in axes if (column := lengths.of(axis)) is not None]
        for value, axes in coupling.relations.values().items()
    }
    for group in groups:
        first, rest = coupling.labels.removed(group.roots[:1]), coupling.labels.removed(group.roots[1:])
        shorter = set(np.flatnonzero(lengths(first) != lengths(nothing)).tolist())
        shrinking = [value for value, own in columns.items() if not shorter.isdisjoint(own)]
        yield GroupCost(
            weights=sum(value in weights for value in shrinking),
            tensors=len(shrinking),
            macs_per_channel=round(all_macs - macs(first)),
            macs=round(all_macs - macs(rest)),
            parameters=round(all_parameters - parameters(rest)),
        )
