"""Plants channels that do nothing, or nothing of their own, into a model: through all weights that they lie in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.coupling import Coupling


def plant_dead(coupling: Coupling, roots: np.ndarray) -> None:
    """Make the channels `roots` zero in every weight, bias and scale that has them."""
    gone = coupling.labels.removed(roots)
    for value, axes in coupling.weights():
        array = value.const_value.numpy()
        if array.dtype.kind != "f":
            continue
        array = array.copy()
        for at, axis in enumerate(axes):
            labels = coupling.of_axis(axis)
            if labels is not None:
                np.moveaxis(array, at, 0)[gone[labels]] = 0
        value.const_value = ir.tensor(array, name=value.name)


def plant_double(coupling: Coupling, root: int, other: int) -> None:
    """Make the channel `other` the same as `root` in every weight that has them."""
    for value, axes in coupling.weights():
        array = value.const_value.numpy()
        if array.dtype.kind != "f":
            continue
        array = array.copy()
        for at, axis in enumerate(axes):
            labels = coupling.of_axis(axis)
            if labels is None:
                continue
            places, roots = coupling.labels.bases(labels)
            one, two = np.sort(places[roots == root]), np.sort(places[roots == other])
            if len(one) == len(two):
                moved = np.moveaxis(array, at, 0)
                moved[two] = moved[one]
        value.const_value = ir.tensor(array, name=value.name)
