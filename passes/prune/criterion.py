"""Measures how important each channel of a group is."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.graph.coupling import Coupling, Group

Scores = npt.NDArray[np.float64]


class Criterion(enum.Enum):
    """How the importance of a channel is measured."""

    MAGNITUDE = "magnitude"
    """The L2 norm of all weights that go with it (Fang et al., arXiv 2301.12900)."""
    L1 = "l1"
    """The L1 norm of all weights that go with it (Li et al., arXiv 1608.08710)."""
    ACTIVATION = "activation"
    """The mean absolute value that it has where it is read, over the calibration samples."""
    RANDOM = "random"
    """Chance; what every other criterion must beat."""


def weight_scores(coupling: Coupling, power: int) -> Scores:
    """Return for each label the norm of the weights that go with it: of order `power`, over all coupled weights.

    Only weights that are multiplied and summed (of convolutions and matrix products) count; biases and scales do not.
    """
    total = np.zeros(coupling.labels.count)
    contracted = {
        value
        for node, (fitted, _) in coupling.fitted.items()
        if fitted.signature.macs
        for value in node.inputs
        if value is not None
    }
    for value, axes in coupling.weights():
        if value not in contracted or len(axes) < 2 or value.const_value is None:
            continue
        powers: npt.NDArray[np.float64] | None = None
        for at, axis in enumerate(axes):
            labels = coupling.of_axis(axis)
            if labels is None:
                continue
            places, roots = coupling.labels.bases(labels)
            if len(places):
                if powers is None:
                    powers = np.abs(value.const_value.numpy().astype(np.float64)) ** power
                sums = powers.sum(axis=tuple(other for other in range(len(axes)) if other != at))
                np.add.at(total, roots, sums[places])
    return total ** (1 / power)


def activation_scores(coupling: Coupling, means: Mapping[tuple[ir.Value, int], Scores]) -> Scores:
    """Return for each label the sum of what it is on average where it is read.

    Args:
        coupling: The coupled axes.
        means: For (value, axis) the mean absolute value at each place along that axis, shape [size].
    """
    total = np.zeros(coupling.labels.count)
    for (value, axis), mean in means.items():
        labels = coupling.of(value, axis)
        if labels is not None:
            places, roots = coupling.labels.bases(labels)
            np.add.at(total, roots, mean[places])
    return total


def split(groups: Sequence[Group], scores: Scores) -> list[Scores]:
    """Return the scores of each group, in the order of its channels."""
    return [scores[group.roots] for group in groups]
