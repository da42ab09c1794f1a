"""Quantizes weights: symmetric, one scale for each output channel, each with the smallest squared error.

Cutting off the largest weights of a channel lets all others be finer, so that the best scale is often a little smaller
than the one that covers everything; where products saturate (see `saturation`) it may be larger.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Singles

from .integers import INT8, IntegerType
from .saturation import (
    Saturation,
    fit_pairs,
    products_in_order,
    restore_order,
)

COARSE = tuple(np.geomspace(0.5, 2.0, 17))
"""Candidate scales, as multiples of the one that covers the whole channel."""
FINE = tuple(2.0 ** (np.arange(-3, 4) / 32))
"""Candidates around the best of the coarse ones, a quarter of their distance apart."""
BLOCK = 1 << 22
"""Weights that are worked on at a time, so that the temporary copies stay small."""


class Rounding(enum.Enum):
    """How weights become levels."""

    NEAREST = "nearest"
    """Each by itself."""
    FITTED = "fitted"
    """All of one output together, by what the layer reads."""


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """A weight on few levels."""

    levels: npt.NDArray[np.int8]
    """Whatever type they are stored in."""
    scale: Singles
    """One for each channel of `axis`, or one for all (of shape ())."""
    axis: int | None
    """The axis of output channels; None: one scale for the whole tensor."""
    integers: IntegerType = INT8
    """What the levels are stored in."""

    def dequantized(self) -> Singles:
        """Return the weight that the levels stand for."""
        if self.axis is None:
            return self.levels * self.scale
        shape = [1] * self.levels.ndim
        shape[self.axis] = -1
        return self.levels * self.scale.reshape(shape)


def quantize_weight(
    weight: Singles,
    axis: int,
    *,
    integers: IntegerType = INT8,
    packing: str | None = None,
    saturation: Saturation = Saturation.IGNORE,
    per_channel: bool = True,
    search: bool = True,
    floor: npt.NDArray[np.floating[Any]] | float = 0.0,
) -> QuantizedWeight:
    """Return `weight` on the levels of a type.

    Args:
        weight: Float32, finite.
        axis: Its axis of output channels.
        integers: Of the levels, signed, of 8 bits at most.
        packing: The order in which the kernel adds up products, see `products_in_order`.
        saturation: What to guard against; not `AUTO`.
        per_channel: A scale for each channel rather than one for the tensor.
        search: Look for the scale with the smallest error; False: the scale that covers everything.
        floor: No scale may be smaller than this (for each channel, or for all): the bias must fit its int32.
    """
    rows = products_in_order(weight, axis, packing).astype(np.float32, copy=False)
    ends = saturation.ends(integers)
    pairs = saturation is Saturation.PAIRS
    height = max(1, BLOCK // max(1, rows.shape[1])) if per_channel else len(rows)
    blocks = [slice(start, start + height) for start in range(0, len(rows), height)]
    scales = np.concatenate([_best_scales(rows[block], ends, pairs, per_channel, search) for block in blocks])
    # A channel without weights gets the scale of the finest other one: its bias is measured in it.
    positive = scales[scales > 0]
    scales = np.where(scales > 0, scales, positive.min() if len(positive) else np.float32(1))
    scales = np.maximum(scales, floor).astype(np.float32)
    if not per_channel:
        scales = np.full_like(scales, scales.max())
    levels = np.concatenate([_levels(rows[block], scales[block], ends, pairs) for block in blocks]).astype(np.int8)
    restored = restore_order(levels, weight.shape, axis, packing)
    own_scales, own_axis = (scales, axis) if per_channel else (scales[0].reshape(()), None)
    return QuantizedWeight(restored, own_scales, own_axis, integers)


def _levels(rows: Singles, scales: Singles, ends: tuple[int, int], pairs: bool) -> Singles:
    levels = np.clip(rows / scales[:, None], *ends)
    return fit_pairs(levels) if pairs else np.rint(levels)


def _best_scales(rows: Singles, ends: tuple[int, int], pairs: bool, per_channel: bool, search: bool) -> Singles:
    """Return the scale of each row; 0 for a row of zeros."""
    best_scales = np.abs(rows).max(axis=1, initial=0.0) / np.float32(ends[1])
    if not per_channel:
        best_scales = np.full_like(best_scales, best_scales.max(initial=0.0))
    if not search and not pairs:
        return np.asarray(best_scales, np.float32)
    least_errors = np.full(len(rows), np.inf)
    for factors in (COARSE, FINE):
        start = best_scales.copy()
        for factor in factors:
            scales = start * np.float32(factor)
            divisors = np.where(scales > 0, scales, np.float32(1))
            restored = _levels(rows, divisors, ends, pairs) * divisors[:, None]
            errors = ((restored - rows) ** 2).sum(axis=1, dtype=np.float64)
            if not per_channel:
                errors = np.full_like(errors, errors.sum())
            better = errors < least_errors
            least_errors[better], best_scales[better] = errors[better], scales[better]
    return np.asarray(best_scales, np.float32)
