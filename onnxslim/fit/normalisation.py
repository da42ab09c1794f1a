"""Corrects the scale and bias of normalisations that stand alone, so that what leaves them is as it was before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.model.edit import overwrite
from onnxslim.ops.relations import Indices

SCALED = {
    ("", "BatchNormalization"): (1, 2),
    ("", "InstanceNormalization"): (1, 2),
    ("", "GroupNormalization"): (1, 2),
    ("", "LayerNormalization"): (1, 2),
}
"""The ops that scale and shift what they have normalised, and which inputs hold scale and bias."""
RIDGE = 1e-3
"""How much the present scale counts, relative to the energy of what leaves."""

Array = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A normalisation of the cut model, the axis of its channels, and which of them it kept."""

    node: ir.Node
    axis: int
    kept: Indices


def correctable(node: ir.Node) -> bool:
    """Whether `correct` can correct a node: a normalisation whose scale and bias are vectors of its own."""
    places = SCALED.get((node.domain, node.op_type))
    if places is None or len(node.inputs) <= max(places):
        return False
    held = [node.inputs[at] for at in places]
    arrays = [constant(value) for value in held]
    return all(
        value is not None and array is not None and array.ndim == 1 and len(value.uses()) == 1
        for value, array in zip(held, arrays, strict=True)
    )


def correct(scaled: Scaled, now: Sequence[Array], then: Sequence[Array]) -> None:
    """Fit, channel by channel, a scale and a shift of what leaves the node now to what left it before, and put them
    into its parameters.

    Args:
        scaled: The node; `correctable` holds for it.
        now: Its output, batch by batch.
        then: The same of the model before.
    """
    count, sums = 0, np.zeros((4, len(scaled.kept)))
    for one, other in zip(now, then, strict=True):
        x = np.moveaxis(one, scaled.axis, -1).reshape(-1, len(scaled.kept)).astype(np.float64)
        kept = np.take(other, scaled.kept, axis=scaled.axis)
        y = np.moveaxis(kept, scaled.axis, -1).reshape(-1, len(scaled.kept)).astype(np.float64)
        if len(x) != len(y):
            continue  # how many places there are depends on what a layer before gives: these are others
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
    first, second = SCALED[scaled.node.domain, scaled.node.op_type]
    for at, added in ((first, np.zeros(len(shift))), (second, shift)):
        value = scaled.node.inputs[at]
        held = constant(value)
        assert value is not None
        assert held is not None
        overwrite(value, held.astype(np.float64) * factor + added)
