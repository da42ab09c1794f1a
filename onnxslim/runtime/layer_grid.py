"""Times of layers at any width between those that were measured."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class LatencyGrid:
    """What was measured of one layer."""

    widths: tuple[tuple[int, ...], ...]
    """For each of its widths (channels in, channels out, ...) those that were measured, rising."""
    milliseconds: Numbers
    """For each combination of them, one axis for each width."""


class LayerGrid:
    """Interpolates the times of many layers at once, linearly along each width.

    The time of a layer grows with the product of its widths, and with each of them for what is read and written:
    linear along each is exact for both. Beyond what was measured, the nearest counts.
    """

    def __init__(self, tables: Sequence[LatencyGrid]) -> None:
        self.dimensions = max((len(table.widths) for table in tables), default=0)
        most = max((len(widths) for table in tables for widths in table.widths), default=1)
        count = len(tables)
        self._knots = np.full((count, self.dimensions, most), np.inf)
        self._last = np.zeros((count, self.dimensions), np.int64)
        self._times = np.zeros((count, *[most] * self.dimensions))
        for at, table in enumerate(tables):
            for axis, widths in enumerate(table.widths):
                self._knots[at, axis, : len(widths)] = widths
                self._last[at, axis] = len(widths) - 1
            self._knots[at, len(table.widths) :, 0] = 0
            spare = self.dimensions - len(table.widths)
            held = table.milliseconds.reshape(*table.milliseconds.shape, *[1] * spare)
            inner = tuple(slice(size) for size in held.shape)
            self._times[at][inner] = held

    def __call__(self, widths: Numbers) -> Numbers:
        """Return the milliseconds of each layer.

        Args:
            widths: Shape [layers, dimensions]; what a layer has no width for is passed over.
        """
        layers = np.arange(len(self._times))
        low = np.clip((self._knots <= widths[:, :, None]).sum(axis=2) - 1, 0, np.maximum(self._last - 1, 0))
        high = np.minimum(low + 1, self._last)
        left, right = (np.take_along_axis(self._knots, each[:, :, None], axis=2)[:, :, 0] for each in (low, high))
        apart = right > left
        part = np.clip(np.where(apart, (widths - left) / np.where(apart, right - left, 1), 0.0), 0.0, 1.0)
        total = np.zeros(len(layers))
        for corner in itertools.product((False, True), repeat=self.dimensions):
            weight = np.ones(len(layers))
            places: list[npt.NDArray[np.int64]] = [layers]
            for axis, upper in enumerate(corner):
                weight = weight * (part[:, axis] if upper else 1 - part[:, axis])
                places.append((high if upper else low)[:, axis])
            total += weight * self._times[tuple(places)]
        return total
