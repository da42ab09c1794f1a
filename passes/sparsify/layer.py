"""The weight of any contraction as matrices of shape [groups, outputs, columns].

The columns are (*kernel, channel), so that neighbours lie along the input channels.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from onnxslim.analysis.linear_layer import Contraction
from onnxslim.model.edit import overwrite

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class WeightMatrices:
    """The weight of a contraction as matrices, one for each group."""

    contraction: Contraction
    order: tuple[int, ...]
    """The axes of the expanded weight as (groups, outputs, kernel, channels)."""
    shape: tuple[int, int, int]
    """(groups, outputs, columns)."""
    channels: int
    """Input channels of a group: how many neighbouring columns belong to one place of the kernel."""

    @property
    def name(self) -> str:
        """The name of the weight."""
        return self.contraction.weight.name or ""

    def matrix(self) -> Array:
        """Return the weight, shape [groups, outputs, columns]."""
        return np.ascontiguousarray(self.contraction.expanded().transpose(self.order)).reshape(self.shape)

    def write(self, matrix: Array) -> None:
        """Replace the weight, in its own layout and type."""
        expanded = matrix.reshape([self.contraction.sizes[at] for at in self.order]).transpose(np.argsort(self.order))
        overwrite(self.contraction.weight, expanded)


def layer_of(contraction: Contraction) -> WeightMatrices:
    """Return the weight of a contraction as matrices."""
    signature = contraction.fitted.signature
    reaching = {
        factor
        for operand in signature.outputs
        for dimension in operand.dimensions
        if not dimension.ellipsis
        for factor in dimension.factors
    }
    places: dict[str, list[int]] = {"groups": [], "outputs": [], "kernel": [], "channels": []}
    for at, letter in enumerate(contraction.letters):
        if letter in contraction.over:
            places["groups" if letter in reaching else "channels"].append(at)
        else:
            places["kernel" if letter[0].isalpha() and letter[-1].isdigit() else "outputs"].append(at)
    groups, outputs, kernel, channels = (math.prod(contraction.sizes[at] for at in each) for each in places.values())
    order = tuple(at for each in places.values() for at in each)
    return WeightMatrices(contraction, order, (groups, outputs, kernel * channels), channels)
