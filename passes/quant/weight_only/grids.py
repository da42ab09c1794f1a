"""Levels in equal steps, with a scale for each block of weights along the summed axis, or one for each output.

The scale of a block is the one with the smallest squared error, each column weighed by the mean square of what it is
multiplied with, where that is known (Lin et al., "AWQ: activation-aware weight quantization", MLSys 2024, weigh
columns alike).
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array, Floats, Singles

SHRINK = tuple(np.linspace(0.45, 1.05, 21))
"""Candidate intervals, relative to the one that covers the whole block: cutting off makes the other levels finer."""
PIECE = 1 << 21
"""Weights that are worked on at a time, so that the temporary copies stay small."""


class WeightType(enum.Enum):
    """The element type of weights."""

    INT8 = "int8"
    INT4 = "int4"
    INT2 = "int2"
    CODEBOOK = "codebook"
    """One of 16 levels wherever they serve best."""
    POWERS = "powers"
    """One of 16 levels that are powers of two."""

    @property
    def bits(self) -> int:
        """How many bits a weight takes."""
        return {WeightType.INT8: 8, WeightType.INT2: 2}.get(self, 4)

    @property
    def equal_steps(self) -> bool:
        """Whether the levels are integers."""
        return self not in (WeightType.CODEBOOK, WeightType.POWERS)


@dataclasses.dataclass(frozen=True)
class LevelGrid:
    """The levels of a weight of shape [columns, outputs]: real = scale x (level - zero point), levels from 0 on."""

    bits: int
    block: int
    """Neighbouring columns that share a scale."""
    symmetric: bool
    """Whether every zero point is the level in the middle."""
    scale: Singles
    """Shape [blocks, outputs]."""
    zero_point: npt.NDArray[np.uint8]
    """Shape [blocks, outputs]."""

    @property
    def middle(self) -> int:
        """The level in the middle, which a signed integer of as many bits has as its 0."""
        return int(2 ** (self.bits - 1))

    def nearest(self, column: int, values: Floats) -> Floats:
        """Return the nearest levels of numbers of one column, shape [outputs], as real numbers."""
        scale, zero_point = self.scale[column // self.block].astype(np.float64), self.zero_point[column // self.block]
        levels = np.clip(np.rint(values / scale) + zero_point, 0, 2**self.bits - 1)
        return np.asarray((levels - zero_point) * scale)

    def levels(self, weight: Floats | Singles) -> npt.NDArray[np.uint8]:
        """Return the nearest levels of a weight, shape [columns, outputs]."""
        scale, zero_point = (_spread(part, self.block, len(weight)) for part in (self.scale, self.zero_point))
        rounded = np.rint(weight / scale) + zero_point
        return np.asarray(np.clip(rounded, 0, 2**self.bits - 1), np.uint8)

    def dequantized(self, levels: npt.NDArray[np.uint8]) -> Singles:
        """Return what levels stand for, shape [columns, outputs]."""
        scale, zero_point = (_spread(part, self.block, len(levels)) for part in (self.scale, self.zero_point))
        return (levels.astype(np.float32) - zero_point) * scale


def _spread(blocks: Array, block: int, columns: int) -> Array:
    return np.repeat(blocks, block, axis=0)[:columns]


def fit_grid(weight: Singles, bits: int, block: int, *, symmetric: bool, importance: Floats | None = None) -> LevelGrid:
    """Return the grid with the smallest squared error.

    Args:
        weight: Finite, shape [columns, outputs].
        bits: 2 to 8.
        block: Columns that share a scale; 0: all.
        symmetric: Whether zero must be the level in the middle.
        importance: How much an error of each column counts, shape [columns]; None: all alike.
    """
    columns, outputs = weight.shape
    block = block or columns
    width = max(1, PIECE // columns)
    parts = [
        _fit(weight[:, start : start + width], bits, block, symmetric, importance) for start in range(0, outputs, width)
    ]
    scale, zero_point = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return LevelGrid(bits, block, symmetric, scale, zero_point)


def _fit(
    weight: Singles, bits: int, block: int, symmetric: bool, importance: Floats | None
) -> tuple[Singles, npt.NDArray[np.uint8]]:
    columns, outputs = weight.shape
    blocks = -(-columns // block)
    padding = blocks * block - columns
    values = np.pad(weight, ((0, padding), (0, 0))).reshape(blocks, block, outputs)
    counts = np.ones(columns) if importance is None else importance / max(float(importance.mean()), 1e-30) + 1e-6
    weighing = np.pad(counts, (0, padding)).astype(np.float32).reshape(blocks, block, 1)
    top, middle = np.float32(2**bits - 1), np.float32(2 ** (bits - 1))
    low, high = (np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0))
    largest = np.maximum(-low, high)
    best_scale, best_zero = np.ones((blocks, outputs), np.float32), np.full((blocks, outputs), middle)
    least = np.full((blocks, outputs), np.inf, np.float32)
    for shrink in map(np.float32, SHRINK):
        if symmetric:  # between covering both ends, and covering the lower alone, which has one level more
            candidates = [(largest * shrink / np.float32(middle - 0.5), np.full_like(low, middle))]
        else:
            scale = (high - low) * shrink / top
            nearest = np.rint(-low * shrink / np.where(scale > 0, scale, 1))
            candidates = [(scale, np.clip(nearest + step, 0, top)) for step in (-1, 0, 1)]
        for scale, zero in candidates:
            scale = np.where(scale > np.finfo(np.float32).tiny, scale, np.float32(1))
            levels = np.clip(np.rint(values / scale[:, None]) + zero[:, None], 0, top)
            errors = (weighing * ((levels - zero[:, None]) * scale[:, None] - values) ** 2).sum(axis=1)
            better = errors < least
            least[better], best_scale[better], best_zero[better] = errors[better], scale[better], zero[better]
    return best_scale, best_zero.astype(np.uint8)
