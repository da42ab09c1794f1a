"""Chooses the scale and zero point of an activation from what was seen of it."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Singles
from onnxslim.observe.statistics import Range

from .integers import IntegerType
from .intervals import Histogram, entropy_interval, mse_interval, percentile_interval

CUTTING = (1.0, 4.0, 16.0)
"""How many times what is cut off counts in the intervals that `Calibration.AUTO` tries beside the whole range."""

NOTHING_LOST = 1e3
"""How many times it counts where only that is cut off of which pointwise ops leave nothing."""

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

    @property
    def cutting(self) -> tuple[float, ...]:
        """How many times what is cut off counts beside what is rounded, for each of the `intervals_of` a tensor;
        infinite where nothing more is to be cut off."""
        match self:
            case Calibration.AUTO:
                return math.inf, math.inf, *CUTTING
            case Calibration.MSE:
                return (1.0,)
            case _:
                return (math.inf,)


class Activations(enum.Enum):
    """The element type of activations."""

    AUTO = "auto"
    """What the target's kernels like best."""
    UINT8 = "uint8"
    INT8 = "int8"
    UINT16 = "uint16"
    INT16 = "int16"
    UINT4 = "uint4"
    """Levels of 4 bits, each kept in 8, so that kernels of 8 bits compute on them."""
    INT4 = "int4"
    UINT2 = "uint2"
    INT2 = "int2"
    DYNAMIC = "dynamic"
    """uint8, by a scale that is found as the model runs."""
    FLOAT = "float"
    """None: weights alone become integers."""

    @property
    def integers(self) -> IntegerType | None:
        """The type that it names; None where it names none."""
        return IntegerType.named(self.value) if "int" in self.value else None


@dataclasses.dataclass(frozen=True)
class Scale:
    """An affine map of levels onto real numbers: real = scale x (level - zero_point)."""

    scale: np.float32
    zero_point: int
    integers: IntegerType

    @classmethod
    def covering(cls, low: float, high: float, integers: IntegerType, symmetric: bool = False) -> Scale:
        """Return the map whose levels cover the interval. Zero is always a level: padding and Relu make many zeros.

        A `symmetric` map, of signed levels, has zero as its zero point.
        """
        if symmetric:
            high = max(abs(low), abs(high))
            scale = np.float32(high / integers.highest)
            return cls(scale if scale > np.finfo(np.float32).tiny else np.float32(1), 0, integers)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = np.float32((high - low) / integers.steps)
        if not scale > np.finfo(np.float32).tiny:  # nothing but zeros was seen
            return cls(np.float32(1), integers.lowest, integers)
        return cls.of_step(scale, low, integers)

    @classmethod
    def of_step(cls, step: np.float32, low: float, integers: IntegerType, symmetric: bool = False) -> Scale:
        """Return the map of some step whose levels begin at `low`, not above zero; the `symmetric` one begins where it
        must."""
        below = int(np.clip(round(-low / float(step)), 0, integers.steps))
        return cls(step, 0 if symmetric else integers.lowest + below, integers)

    @property
    def parameters(self) -> tuple[Singles, npt.NDArray[np.integer]]:
        """The scale and the zero point as QuantizeLinear takes them, shape []."""
        return np.asarray(self.scale), np.asarray(self.zero_point, self.integers.kept_in.dtype)

    @property
    def ends(self) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]] | None:
        """The lowest and the highest level, shape []; None where QuantizeLinear ends there by itself."""
        if not self.integers.narrow:
            return None
        dtype = self.integers.kept_in.dtype
        return np.asarray(self.integers.lowest, dtype), np.asarray(self.integers.highest, dtype)

    @property
    def interval(self) -> tuple[float, float]:
        """The real numbers that the lowest and the highest level stand for."""
        step, ends = float(self.scale), self.integers
        return (ends.lowest - self.zero_point) * step, (ends.highest - self.zero_point) * step

    def quantize(self, array: Singles) -> npt.NDArray[np.integer]:
        """Return the levels nearest to `array`, halves to even, as QuantizeLinear does."""
        levels = np.rint(array / self.scale) + self.zero_point
        return np.asarray(np.clip(levels, self.integers.lowest, self.integers.highest), self.integers.kept_in.dtype)


ScaleChoice = Mapping[str, Scale]
"""A scale for the source of each group of a plan, by its name."""


def intervals_of(
    seen: Range, histogram: Histogram | None, calibration: Calibration, percentile: float, steps: int
) -> list[tuple[float, float]]:
    """Return the intervals that the levels of a tensor, whose range is finite, may cover; several for `AUTO`.

    Without a histogram the range is covered. `percentile`, in percent of the values, is for `Calibration.PERCENTILE`;
    there are `steps` between the levels.
    """
    whole = seen.low, seen.high
    if histogram is None or not histogram.counts.any():
        return [whole]
    match calibration:
        case Calibration.PERCENTILE:
            found = [percentile_interval(histogram, percentile)]
        case Calibration.ENTROPY:
            found = [entropy_interval(histogram, steps)]
        case Calibration.MSE:
            found = [mse_interval(histogram, steps)]
        case Calibration.AUTO:
            inside = _inside(whole, [mse_interval(histogram, steps, cutting) for cutting in (*CUTTING, NOTHING_LOST)])
            if histogram.curves is not None and histogram.certain:
                whole = inside[-1]
            return [whole, (whole[0] * HEADROOM, whole[1] * HEADROOM), *inside[:-1]]
        case _:
            found = [whole]
    return _inside(whole, found)


def _inside(whole: tuple[float, float], intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(max(low, whole[0]), min(high, whole[1])) for low, high in intervals]
