"""Interpolated layer times between measured widths."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Floats


@dataclasses.dataclass(frozen=True)
class LatencyGrid:
    """The measured times of one layer."""

    widths: tuple[tuple[int, ...], ...]
    """Measured sizes of each width (channels in, channels out, ...), ascending."""
    milliseconds: Floats
    """Milliseconds of each combination, with one axis per width."""


class LayerGrid:
    """Multilinear interpolation of the times of many layers at once.

    Computation grows with the product of the widths, and memory traffic with each width; interpolation that is linear
    along each width is exact for both. Outside of the measured range, the nearest measured width counts.
    """

    def __init__(self, tables: Sequence[LatencyGrid]) -> None:
        self.dimensions = max((len(table.widths) for table in tables), default=0)
        longest = max((len(widths) for table in tables for widths in table.widths), default=1)
        count = len(tables)
        self._knots = np.full((count, self.dimensions, longest), np.inf)
        self._last = np.zeros((count, self.dimensions), np.int64)
        self._times = np.zeros((count, *[longest] * self.dimensions))
        for layer, table in enumerate(tables):
            for axis, widths in enumerate(table.widths):
                self._knots[layer, axis, : len(widths)] = widths
                self._last[layer, axis] = len(widths) - 1
            self._knots[layer, len(table.widths) :, 0] = 0
            missing = self.dimensions - len(table.widths)
            times = table.milliseconds.reshape(*table.milliseconds.shape, *[1] * missing)
            inner = tuple(slice(size) for size in times.shape)
            self._times[layer][inner] = times

    def __call__(self, widths: Floats) -> Floats:
        """Return the milliseconds of each layer, [layers].

        Args:
            widths: Shape [layers, dimensions]; dimensions that a layer does not have are ignored.
        """
        layers = np.arange(len(self._times))
        low = np.clip((self._knots <= widths[:, :, None]).sum(axis=2) - 1, 0, np.maximum(self._last - 1, 0))
        high = np.minimum(low + 1, self._last)
        left, right = (np.take_along_axis(self._knots, index[:, :, None], axis=2)[:, :, 0] for index in (low, high))
        distinct = right > left
        fraction = np.clip(np.where(distinct, (widths - left) / np.where(distinct, right - left, 1), 0.0), 0.0, 1.0)
        total = np.zeros(len(layers))
        for corner in itertools.product((False, True), repeat=self.dimensions):
            weight = np.ones(len(layers))
            indices: list[npt.NDArray[np.int64]] = [layers]
            for axis, upper in enumerate(corner):
                weight = weight * (fraction[:, axis] if upper else 1 - fraction[:, axis])
                indices.append((high if upper else low)[:, axis])
            total += weight * self._times[tuple(indices)]
        return total
