"""Refits the scale and the bias of normalisations, so that their outputs are as they were before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.arrays import Indices, Singles
from onnxslim.model.constants import constant
from onnxslim.model.edit import overwrite
from onnxslim.ops.binding import input_index

RIDGE = 1e-3
"""The weight of the present scale, relative to the energy of the output."""


@dataclasses.dataclass(frozen=True)
class CutNormalisation:
    """A normalisation of a model that channels were removed from."""

    node: ir.Node
    axis: int
    """The axis of the channels of its output."""
    kept: Indices
    """Which channels of before it has."""


def has_own_affine(node: ir.Node) -> bool:
    """Whether `node` is a normalisation whose scale and bias are constant vectors that nothing else reads."""
    return len(_affine(node)) == 2


def refit_affine(normalisation: CutNormalisation, outputs: Sequence[Singles], before: Sequence[Singles]) -> None:
    """Fit for each channel a scale and a shift of the present output to that of before, by ridge regression, and put
    them into the scale and the bias.

    Args:
        normalisation: A node for which `has_own_affine` holds.
        outputs: Its output, batch by batch.
        before: The same of the model that nothing was removed from. Batches with more or fewer positions, which may
            depend on other layers, are left out.
    """
    axis, kept = normalisation.axis, normalisation.kept
    count, sums = 0, np.zeros((4, len(kept)))
    for output, whole in zip(outputs, before, strict=True):
        x = np.moveaxis(output, axis, -1).reshape(-1, len(kept)).astype(np.float64)
        y = np.moveaxis(np.take(whole, kept, axis=axis), axis, -1).reshape(-1, len(kept)).astype(np.float64)
        if len(x) == len(y):
            sums += [x.sum(0), y.sum(0), (x * x).sum(0), (x * y).sum(0)]
            count += len(x)
    if not count:
        return
    mean_x, mean_y, square, product = sums / count
    variance, covariance = square - mean_x**2, product - mean_x * mean_y
    ridge = RIDGE * square + 1e-12
    factor = (covariance + ridge) / (variance + ridge)
    shift = mean_y - factor * mean_x
    if np.allclose(factor, 1, atol=1e-7) and np.allclose(shift, 0, atol=1e-7):
        return
    for (value, array), added in zip(_affine(normalisation.node).items(), (0.0, shift), strict=True):
        overwrite(value, array.astype(np.float64) * factor + added)


def _affine(node: ir.Node) -> dict[ir.Value, npt.NDArray[np.generic]]:
    """Return the scale and the bias of a normalisation, without those that are no constant vector of its own."""
    found: dict[ir.Value, npt.NDArray[np.generic]] = {}
    for index in (input_index(node, name) for name in ("scale", "b")):
        value = node.inputs[index] if index is not None and index < len(node.inputs) else None
        array = constant(value)
        if value is not None and array is not None and array.ndim == 1 and len(value.uses()) == 1:
            found[value] = array
    return found
