"""Sixteen levels wherever they serve a weight best, or at powers of two, times a scale for each output.

The levels are found by k-means in one dimension (Lloyd's iteration on a histogram), on the weights of all outputs, each
output divided by its scale, and each column weighed by the mean square of what it is multiplied with, where that is
known: Han et al., "Deep compression", ICLR 2016. Powers of two are the levels of logarithmic quantization (Miyashita
et al., "Convolutional neural networks using logarithmic data representation", 2016).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Floats, Singles

SIZE = 16
"""Levels: an index takes 4 bits."""
BINS = 8192
"""Of the histogram that levels are found on."""
ROUNDS = 60
"""Of Lloyd's iteration; levels hardly move afterwards."""
POWERS = np.array([0.0, *(sign * 2.0**-power for power in range(7) for sign in (-1, 1)), 2.0**-7], np.float32)
"""Zero, and powers of two of both signs."""
SCALES = tuple(np.geomspace(0.5, 1.6, 25))
"""Candidate scales for powers of two, relative to the largest weight of an output."""


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Levels of a weight of shape [columns, outputs]: real = scale x level."""

    values: Singles
    """The levels, ascending, shape [16]."""
    scale: Singles
    """Shape [outputs]."""

    def nearest(self, column: int, values: Floats) -> Floats:
        """Return the nearest levels of numbers of one column, shape [outputs], as real numbers."""
        levels: Floats = self.values[self._indices(values)].astype(np.float64) * self.scale
        return levels

    def levels(self, weight: Floats | Singles) -> npt.NDArray[np.uint8]:
        """Return the indices of the nearest levels of a weight, shape [columns, outputs]."""
        return self._indices(weight).astype(np.uint8)

    def dequantized(self, levels: npt.NDArray[np.uint8]) -> Singles:
        """Return what indices stand for, shape [columns, outputs]."""
        return np.asarray(self.values[levels] * self.scale, np.float32)

    def _indices(self, weight: Floats | Singles) -> npt.NDArray[np.intp]:
        return np.searchsorted((self.values[1:] + self.values[:-1]) / 2, weight / self.scale)


def fit_codebook(weight: Singles, importance: Floats | None = None) -> Codebook:
    """Return the levels with the smallest squared error.

    Args:
        weight: Finite, shape [columns, outputs].
        importance: How much an error of each column counts, shape [columns]; None: all alike.
    """
    scale = _positive(np.sqrt(np.square(weight, dtype=np.float64).mean(axis=0)))
    counts = (np.ones(len(weight)) if importance is None else importance)[:, None] * np.square(scale, dtype=np.float64)
    masses, edges = np.histogram(weight / scale, BINS, weights=counts)
    centres = (edges[1:] + edges[:-1]) / 2
    below, moments = (np.concatenate([[0.0], np.cumsum(part)]) for part in (masses, masses * centres))
    total = below[-1]
    if not total > 0:
        return Codebook(np.linspace(0, 1, SIZE, dtype=np.float32), scale)
    values = np.interp((np.arange(SIZE) + 0.5) / SIZE * total, below[1:], centres)
    for _ in range(ROUNDS):
        cuts = np.concatenate([[0], np.searchsorted(centres, (values[1:] + values[:-1]) / 2), [BINS]])
        inside = below[cuts[1:]] - below[cuts[:-1]]
        means = (moments[cuts[1:]] - moments[cuts[:-1]]) / np.where(inside > 0, inside, 1)
        values = np.sort(np.where(inside > 0, means, values))
    if (weight == 0).mean() > 1 / SIZE:  # what was pruned stays so
        values[np.argmin(np.abs(values))] = 0
    return Codebook(values.astype(np.float32), scale)


def fit_powers(weight: Singles, importance: Floats | None = None) -> Codebook:
    """Return powers of two with the scale of each output that has the smallest squared error; see `fit_codebook`."""
    counts = np.ones(len(weight)) if importance is None else importance / max(float(importance.mean()), 1e-30)
    largest = _positive(np.abs(weight).max(axis=0))
    best, least = largest, np.full(weight.shape[1], np.inf)
    for factor in SCALES:
        codebook = Codebook(np.sort(POWERS), (largest * np.float32(factor)).astype(np.float32))
        error = np.square(codebook.dequantized(codebook.levels(weight)) - weight, dtype=np.float64)
        errors = (counts[:, None] * error).sum(axis=0)
        better = errors < least
        best, least = np.where(better, codebook.scale, best), np.where(better, errors, least)
    return Codebook(np.sort(POWERS), best.astype(np.float32))


def _positive(scale: Floats | Singles) -> Singles:
    """Return scales in single precision; 1 for an output without weights."""
    single = scale.astype(np.float32)
    return np.where(single > np.finfo(np.float32).tiny, single, np.float32(1))
