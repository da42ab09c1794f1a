"""Chooses the scale and zero point of an activation from what was seen of it."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Singles
from onnxslim.observe.statistics import Range

from .intervals import LEVELS, Histogram, entropy_interval, mse_interval, percentile_interval

CUTTING = (1.0, 4.0, 16.0)
"""How many times what is cut off counts in the intervals that `Calibration.AUTO` tries beside the whole range."""

HEADROOM = 1.25
"""How much wider than what was seen another is: of few samples the extremes are those that were seen by chance."""


class Calibration(enum.Enum):
    """How the interval that the levels cover is chosen."""

    AUTO = "auto"
    """Of several ways the one that costs the outputs least."""
    MINMAX = "minmax"
    """Everything that was seen."""
    MOVING = "moving"
    """The mean of the smallest and of the largest elements of the runs."""
    PERCENTILE = "percentile"
    """All but the rarest values."""
    ENTROPY = "entropy"
    """The smallest divergence of the distribution."""
    MSE = "mse"
    """The smallest expected squared error."""

    @property
    def needs_histograms(self) -> bool:
        """Whether the distribution must be known, and not just the range."""
        return self not in (Calibration.MINMAX, Calibration.MOVING)


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


def intervals_of(
    seen: Range, histogram: Histogram | None, calibration: Calibration, percentile: float
) -> list[tuple[float, float]]:
    """Return the intervals that the levels of a tensor, whose range is finite, may cover; several for `AUTO`.

    Without a histogram the range is covered. `percentile`, in percent of the values, is for `Calibration.PERCENTILE`.
    """
    whole = seen.low, seen.high
    if histogram is None or not histogram.counts.any():
        return [whole]
    match calibration:
        case Calibration.PERCENTILE:
            found = [percentile_interval(histogram, percentile)]
        case Calibration.ENTROPY:
            found = [entropy_interval(histogram)]
        case Calibration.MSE:
            found = [mse_interval(histogram)]
        case Calibration.AUTO:
            wider = (seen.low * HEADROOM, seen.high * HEADROOM)
            return [whole, wider, *_inside(whole, [mse_interval(histogram, cutting) for cutting in CUTTING])]
        case _:
            found = [whole]
    return _inside(whole, found)


def _inside(whole: tuple[float, float], intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(max(low, whole[0]), min(high, whole[1])) for low, high in intervals]
