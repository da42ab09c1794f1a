"""Chooses the scale and zero point of an activation from what was seen of it.

Three ways to choose the interval that 256 levels shall cover: all that was seen (min-max), all but the rarest values
(percentile), or the interval with the smallest expected squared error (MSE), which weighs what rounding costs against
what cutting off costs (Banner et al., "Post training 4-bit quantization of convolutional networks", NeurIPS 2019, with
the observed distribution in place of an assumed one).
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Floats, Singles
from onnxslim.observe.statistics import BINS, Grid, Range

LEVELS = 255
"""Steps between the lowest and the highest of 256 levels."""

CANDIDATES = 512
"""Bounds that are tried on each side of zero."""


class Calibration(enum.Enum):
    """How the interval that the levels cover is chosen."""

    MINMAX = "minmax"
    """Everything that was seen."""
    PERCENTILE = "percentile"
    """All but the rarest values."""
    MSE = "mse"
    """The smallest expected squared error."""


class Activations(enum.Enum):
    """The element type of activations."""

    AUTO = "auto"
    """What the target's kernels like best."""
    UINT8 = "uint8"
    INT8 = "int8"
    DYNAMIC = "dynamic"
    """uint8, by a scale that is found as the model runs."""
    FLOAT = "float"
    """None: weights alone become integers."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """An affine map of 256 levels onto real numbers: real = scale x (level - zero_point)."""

    scale: np.float32
    zero_point: int
    dtype: np.dtype[np.uint8] | np.dtype[np.int8]

    @classmethod
    def covering(cls, low: float, high: float, signed: bool, symmetric: bool = False) -> Scale:
        """Return the map whose levels cover the interval. Zero is always a level: padding and Relu make many zeros.

        A `symmetric` map, of signed levels, has zero as its zero point.
        """
        if symmetric:
            high = max(abs(low), abs(high))
            scale = np.float32(high / np.iinfo(np.int8).max)
            return cls(scale if scale > np.finfo(np.float32).tiny else np.float32(1), 0, np.dtype(np.int8))
        low, high = min(low, 0.0), max(high, 0.0)
        lowest = -128 if signed else 0
        dtype: np.dtype[np.uint8] | np.dtype[np.int8] = np.dtype(np.int8) if signed else np.dtype(np.uint8)
        scale = np.float32((high - low) / LEVELS)
        if not scale > np.finfo(np.float32).tiny:  # nothing but zeros was seen
            return cls(np.float32(1), lowest, dtype)
        return cls(scale, lowest + int(np.clip(round(-low / float(scale)), 0, LEVELS)), dtype)

    @property
    def parameters(self) -> tuple[Singles, npt.NDArray[np.integer]]:
        """The scale and the zero point as QuantizeLinear takes them, shape []."""
        return np.asarray(self.scale), np.asarray(self.zero_point, self.dtype)

    @property
    def interval(self) -> tuple[float, float]:
        """The real numbers that the lowest and the highest level stand for."""
        info = np.iinfo(self.dtype)
        step = float(self.scale)
        return (info.min - self.zero_point) * step, (info.max - self.zero_point) * step

    def quantize(self, array: Singles) -> npt.NDArray[np.integer]:
        """Return the levels nearest to `array`, halves to even, as QuantizeLinear does."""
        info = np.iinfo(self.dtype)
        levels = np.clip(np.rint(array / self.scale) + self.zero_point, info.min, info.max)
        return np.asarray(levels, self.dtype)


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many elements of a tensor are nearest to each multiple of a grid."""

    counts: Floats
    grid: Grid

    @property
    def centers(self) -> Floats:
        """The multiples."""
        return np.asarray((np.arange(BINS) - self.grid.zero) * self.grid.width, np.float64)


def percentile_interval(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """Return the interval that holds `percentile` percent of the values, with as many left out on either side."""
    share = (1 - percentile / 100) / 2
    cumulated = np.cumsum(histogram.counts)
    first, last = np.searchsorted(cumulated, (share * cumulated[-1], (1 - share) * cumulated[-1]))
    centers = histogram.centers
    return float(centers[first]), float(centers[min(last, len(centers) - 1)])


def mse_interval(histogram: Histogram) -> tuple[float, float]:
    """Return the interval with the smallest expected squared error of 256 levels.

    Every value inside costs a twelfth of the squared step (it lies anywhere between two levels), but for zero, which is
    exact; every value outside costs its squared distance to the bound. With cumulated moments each candidate interval
    costs a few operations, so that all pairs of `CANDIDATES` lower and upper bounds are tried.
    """
    centers, counts = histogram.centers, histogram.counts
    above = centers > 0
    highs, cut_high, kept_high = _tail(centers[above], counts[above])
    lows, cut_low, kept_low = _tail(-centers[~above][::-1][1:], counts[~above][::-1][1:])
    step = (highs[:, None] + lows[None, :]) / LEVELS
    rounding = step**2 / 12 * (kept_high[:, None] + kept_low[None, :])
    error = rounding + cut_high[:, None] + cut_low[None, :]
    best = np.unravel_index(np.argmin(error), error.shape)
    return -float(lows[best[1]]), float(highs[best[0]])


def _tail(magnitudes: Floats, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """For one side of zero: candidate bounds, the error of cutting off there, and how many values stay inside.

    `counts` values lie at each of `magnitudes`, which ascend from zero.
    """
    seen = np.flatnonzero(counts)
    if not len(seen):
        return np.zeros(1), np.zeros(1), np.zeros(1)
    magnitudes, counts = magnitudes[: seen[-1] + 1], counts[: seen[-1] + 1]
    moments = [np.cumsum((counts * magnitudes**power)[::-1])[::-1] for power in range(3)]
    chosen = np.unique(np.linspace(0, len(counts) - 1, CANDIDATES).round().astype(np.int64))
    bounds = magnitudes[chosen]
    outside = [np.append(moment, 0.0)[chosen + 1] for moment in moments]
    cut = outside[2] - 2 * bounds * outside[1] + bounds**2 * outside[0]
    return bounds, np.maximum(cut, 0.0), moments[0][0] - outside[0]


def choose_scale(
    seen: Range,
    histogram: Histogram | None,
    calibration: Calibration,
    percentile: float,
    signed: bool,
    symmetric: bool = False,
) -> Scale:
    """Return the scale and zero point of a tensor whose range is finite, see `Scale.covering`.

    Without a histogram the range is covered. `percentile`, in percent of the values, is for `Calibration.PERCENTILE`.
    """
    low, high = seen.low, seen.high
    if histogram is not None and histogram.counts.any():
        if calibration is Calibration.PERCENTILE:
            low, high = percentile_interval(histogram, percentile)
        elif calibration is Calibration.MSE:
            low, high = mse_interval(histogram)
    return Scale.covering(max(low, seen.low), min(high, seen.high), signed, symmetric)
