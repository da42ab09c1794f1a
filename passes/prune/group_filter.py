"""Chooses the groups of channels that may be cut: by name, size, and blocks; with the reason against the others."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.coupling import ChannelGroup, Coupling, groups
from onnxslim.diagnostic import Code
from onnxslim.pipeline.interface import Note, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import EVERYTHING, Selection

from .allocation import Limits, blocks

QUANTIZED = frozenset(
    {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT16, ir.DataType.UINT16}
)
"""Types of weights that are quantized: their scales were made for all of their channels."""


class PruneCode(Code):
    """Why a group of channels, or a whole model, is not cut."""

    NOTHING_REMOVABLE = "no channel is dead, constant, or the same as another"
    NO_GROUP = "no group of channels can be cut"
    NO_BLOCK = "no block of channels saves {0} without taking far more than {1}"
    QUANTIZED = "its weights are quantized: prune the float model, and quantize afterwards"
    UNITS = "units={0}"
    TOO_FEW = "{0} channels are too few to spare any"
    LIMITS = "of {0} channels minimum={1} and most={2} leave none to cut"


class Units(enum.Enum):
    """The unit that is cut where channels come in blocks: attention heads, groups of convolutions."""

    AUTO = "auto"
    """Whichever matters less for what it costs."""
    WHOLE = "whole"
    """Whole blocks: heads, with the query heads that share their keys; groups."""
    WITHIN = "within"
    """The same place of every block: all heads stay, and get narrower."""


@dataclasses.dataclass(frozen=True)
class GroupFilter:
    """The filter of groups that the options make."""

    selection: Selection = EVERYTHING
    units: Units = Units.AUTO
    limits: Limits | None = None
    """The limits of a cut; None: no limits."""

    def __call__(self, coupling: Coupling) -> tuple[list[ChannelGroup], list[Note]]:
        """Return the groups that may be cut, and a note for each of the others."""
        chosen: list[ChannelGroup] = []
        notes: list[Note] = []
        weights, quantized = _weights(coupling)
        for group in groups(coupling):
            reason = self._against(coupling, group, weights.get(int(group.roots[0]), {}), quantized)
            if reason:
                notes.append(left_alone(group.name, reason))
            else:
                chosen.append(group)
        return chosen, [*self.selection.unmatched(), *notes]

    def _against(
        self, coupling: Coupling, group: ChannelGroup, weights: Iterable[ir.Value], quantized: set[int]
    ) -> Reason | None:
        if reason := self.selection.against(*weights):
            return reason
        if int(group.roots[0]) in quantized:
            return Reason(PruneCode.QUANTIZED)
        if self.units is not Units.AUTO and group.width > 1:
            whole = in_one_piece(coupling, group)
            if whole is not None and whole is not (self.units is Units.WHOLE):
                return Reason(PruneCode.UNITS, (self.units.value,))
        if self.limits is not None and not blocks(group, self.limits):
            count = len(group.roots) * group.width
            if count < 2 * self.limits.step(self.limits.length(group)):
                return Reason(PruneCode.TOO_FEW, (count,))
            return Reason(PruneCode.LIMITS, (count, self.limits.minimum, self.limits.most))
        return None


def in_one_piece(coupling: Coupling, group: ChannelGroup) -> bool | None:
    """Return whether what goes with one channel of a group lies side by side, as a head does; None where it is one
    place."""
    for value, axes in coupling.weights():
        if value.name != group.name:
            continue
        for axis in axes:
            labels = coupling.of_axis(axis)
            if labels is None:
                continue
            places, roots = coupling.labels.bases(labels)
            own = np.sort(places[roots == group.roots[0]])
            if len(own) > 1:
                return bool((np.diff(own) == 1).mean() > 0.5)  # packed weights hold a block for each of their parts
    return None


def _weights(coupling: Coupling) -> tuple[dict[int, dict[ir.Value, None]], set[int]]:
    """Return for each label that may be cut the weights that it lies in, and the labels that lie in quantized ones."""
    weights: dict[int, dict[ir.Value, None]] = {}
    quantized: set[int] = set()
    for value, axes in coupling.weights():
        stored = value.const_value is not None and value.const_value.dtype in QUANTIZED and len(axes) > 1
        for axis in axes:
            labels = coupling.of_axis(axis)
            roots = set() if labels is None else set(coupling.labels.bases(labels)[1].tolist())
            for root in roots:
                weights.setdefault(root, {})[value] = None
            if stored:
                quantized |= roots
    return weights, quantized
