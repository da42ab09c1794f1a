"""Chooses the interval that the levels of an activation cover, from its histogram.

All but the rarest values (percentile); the interval with the smallest expected squared error (MSE), which weighs what
rounding costs against what cutting off costs (Banner et al., "Post training 4-bit quantization of convolutional
networks", NeurIPS 2019, with the observed distribution in place of an assumed one); or the one whose levels tell most
about the distribution (entropy: Migacz, "8-bit inference with TensorRT", GTC 2017).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from onnxslim.arrays import Floats
from onnxslim.observe.statistics import BINS, Grid

CANDIDATES = 512
"""Bounds that are tried on each side of zero."""
THRESHOLDS = 96
"""Magnitudes that are tried as bounds of the entropy."""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many elements of a tensor are nearest to each multiple of a grid."""

    counts: Floats
    grid: Grid
    curves: Floats | None = None
    """What becomes of the multiples before the error counts, shape [curves, BINS]; None: nothing."""
    certain: bool = True
    """Whether each element becomes what the curves tell, not just most of them."""

    @property
    def centers(self) -> Floats:
        """The multiples."""
        return np.asarray((np.arange(BINS) - self.grid.zero) * self.grid.width, np.float64)

    @functools.cached_property
    def made(self) -> Floats:
        """What they become, shape [curves, BINS]."""
        return self.centers[None] if self.curves is None else self.curves

    @functools.cached_property
    def slopes(self) -> Floats:
        """How many times a small squared error counts at each of them, shape [BINS]."""
        return np.asarray(np.square(np.gradient(self.made, self.grid.width, axis=1)).sum(axis=0), np.float64)

    @functools.cached_property
    def rounded(self) -> float:
        """The share of the elements that are not zero, which is exact, each as often as its error counts."""
        total = float(self.counts.sum())
        kept = self.counts * self.slopes
        return float(kept.sum() - kept[self.grid.zero]) / total if total else 0.0

    @functools.cached_property
    def energy(self) -> float:
        """The mean square of the elements."""
        total = float(self.counts.sum())
        return float((self.counts * np.square(self.centers)).sum()) / total if total else 0.0

    def cut(self, low: float, high: float) -> float:
        """Return the mean squared error of what lies outside an interval, which holds zero, and is cut off."""
        if low <= self.centers[0] and high >= self.centers[-1]:
            return 0.0
        width, zero = self.grid.width, self.grid.zero
        first, last = max(0, zero + math.ceil(low / width)), min(BINS - 1, zero + math.floor(high / width))
        left = np.square(self.made - self.made[:, np.clip(np.arange(BINS), first, last)]).sum(axis=0)
        total = float(self.counts.sum())
        return float((self.counts * left).sum()) / total if total else 0.0


def percentile_interval(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """Return the interval that holds `percentile` percent of the values, with as many left out on either side."""
    share = (1 - percentile / 100) / 2
    cumulated = np.cumsum(histogram.counts)
    first, last = np.searchsorted(cumulated, (share * cumulated[-1], (1 - share) * cumulated[-1]))
    centers = histogram.centers
    return float(centers[first]), float(centers[min(last, len(centers) - 1)])


def mse_interval(histogram: Histogram, steps: int, cutting: float = 1.0) -> tuple[float, float]:
    """Return the interval with the smallest expected squared error of levels with so many steps between them.

    Every value inside costs a twelfth of the squared step (it lies anywhere between two levels), but for zero, which is
    exact; every value outside costs its squared distance to the bound. With cumulated moments each candidate interval
    costs a few operations, so that all pairs of `CANDIDATES` lower and upper bounds are tried.

    Args:
        histogram: Of the tensor.
        steps: Between the lowest and the highest level.
        cutting: How many times what is cut off counts: the error of large values is not independent of them, as that
            of rounding is, and may cost the outputs more.
    """
    centers, counts = histogram.centers, histogram.counts
    made, slopes = histogram.made, histogram.slopes
    above = centers > 0
    below = np.flatnonzero(~above)[::-1][1:]
    highs, cut_high, kept_high = _tail(centers[above], counts[above], made[:, above], slopes[above])
    lows, cut_low, kept_low = _tail(-centers[below], counts[below], made[:, below], slopes[below])
    step = (highs[:, None] + lows[None, :]) / steps
    rounding = step**2 / 12 * (kept_high[:, None] + kept_low[None, :])
    error = rounding + cutting * (cut_high[:, None] + cut_low[None, :])
    best = np.unravel_index(np.argmin(error), error.shape)
    return -float(lows[best[1]]), float(highs[best[0]])


def _tail(magnitudes: Floats, counts: Floats, made: Floats, slopes: Floats) -> tuple[Floats, Floats, Floats]:
    """For one side of zero: candidate bounds, the error of cutting off there, and the squared slopes that are inside.

    `counts` values lie at each of `magnitudes`, which ascend from zero, and become those of `made`, [curves, values].
    """
    seen = np.flatnonzero(counts)
    if not len(seen):
        return np.zeros(1), np.zeros(1), np.zeros(1)
    magnitudes, counts, made, slopes = (array[..., : seen[-1] + 1] for array in (magnitudes, counts, made, slopes))
    chosen = np.unique(np.linspace(0, len(counts) - 1, CANDIDATES).round().astype(np.int64))

    def outside(array: Floats) -> Floats:
        """Return sums over what lies beyond each bound, shape [..., bounds]."""
        sums = np.cumsum(array[..., ::-1], axis=-1)[..., ::-1]
        return np.concatenate([sums, np.zeros_like(sums[..., :1])], axis=-1)[..., chosen + 1]

    bounds, most = made[:, chosen], (counts * slopes).sum()
    cut = (outside(counts * made**2) - 2 * bounds * outside(counts * made) + bounds**2 * outside(counts)).sum(axis=0)
    return magnitudes[chosen], np.maximum(cut, 0.0), most - outside(counts * slopes)


def entropy_interval(histogram: Histogram, steps: int) -> tuple[float, float]:
    """Return the interval whose levels lose least of the distribution, by its Kullback-Leibler divergence.

    Both sides of zero are cut off at one magnitude. What lies outside is counted to the last bin inside; what a level
    stands for is spread evenly over those of its bins that are not empty.
    """
    centers, counts = histogram.centers, histogram.counts
    seen = np.flatnonzero(counts)
    low, high = min(0.0, centers[seen[0]]), max(0.0, centers[seen[-1]])
    largest = max(-low, high)
    best, least = largest, np.inf
    for threshold in np.linspace(largest / 16, largest, THRESHOLDS):
        divergence = _divergence(centers, counts, max(low, -threshold), min(high, threshold), steps)
        if divergence < least:
            best, least = threshold, divergence
    return max(low, -best), min(high, best)


def _divergence(centers: Floats, counts: Floats, low: float, high: float, steps: int) -> float:
    inside = np.flatnonzero((centers >= low) & (centers <= high))
    if len(inside) < 2:
        return np.inf
    kept = counts[inside].copy()
    reference = kept.copy()
    reference[0] += counts[: inside[0]].sum()
    reference[-1] += counts[inside[-1] + 1 :].sum()
    levels = np.rint((centers[inside] - low) / max(high - low, 1e-300) * steps).astype(np.int64)
    totals = np.bincount(levels, kept, steps + 1)
    filled = np.bincount(levels, kept > 0, steps + 1)
    spread = np.where(kept > 0, totals[levels] / np.maximum(filled[levels], 1), 0.0)
    used = reference > 0
    # A bin that holds only what was cut off stands for nothing: it gets the least that a bin can hold.
    spread = np.maximum(spread[used], 1e-3)
    share, guess = reference[used] / reference.sum(), spread / spread.sum()
    return float((share * np.log(share / guess)).sum())
