"""The formats of half precision, and how numbers become such.

IEEE 754-2019, binary16: 11 significant bits, from 2^-24 to 65504. bfloat16: 8 significant bits, and the range of
float32.
"""

from __future__ import annotations

import dataclasses
import enum

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array

BLOCK = 1 << 20
"""Numbers that are converted at once: weights may fill half of the memory."""


class HalfType(enum.Enum):
    """An element type of 16 bits."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


@dataclasses.dataclass(frozen=True)
class HalfFormat:
    """What numbers of 16 bits can be."""

    name: str
    """As ONNX spells it in schemas: ``float16``."""
    dtype: np.dtype[np.generic]
    onnx_type: ir.DataType
    largest: float
    smallest: float
    """Above zero, subnormal numbers included."""
    bits: int
    """Significant bits of normal numbers: relative rounding errors are up to 2^-bits."""
    opset: int
    """ONNX's operator set that Cast knows it since."""

    @property
    def cut(self) -> float:
        """What masks are cut at: two of them add up to less than `largest`, and the exponential of one is 0."""
        return self.largest / 4

    @property
    def small(self) -> float:
        """Below that fewer than 8 significant bits are left of a number."""
        return self.smallest * 2.0 ** min(7, self.bits - 1)

    @property
    def counts_to(self) -> float:
        """All integers up to that are exact."""
        return 2.0**self.bits

    @property
    def largest_angle(self) -> float:
        """Rounding an angle of that size moves its sine by up to 2^-8."""
        return 2.0 ** (self.bits - 8)


FORMATS = {
    HalfType.FLOAT16: HalfFormat("float16", np.dtype(np.float16), ir.DataType.FLOAT16, 65504.0, 2.0**-24, 11, opset=7),
    HalfType.BFLOAT16: HalfFormat(
        "bfloat16",
        np.dtype(ml_dtypes.bfloat16),
        ir.DataType.BFLOAT16,
        (2.0 - 2.0**-7) * 2.0**127,
        2.0**-133,
        8,
        opset=13,
    ),
}


def as_half(array: Array, half: HalfFormat, cut: bool = False) -> Array:
    """Return float32 numbers as half precision, halves to even.

    Finite numbers stay finite: what is beyond the largest becomes the largest. A single number that is not 0 does not
    become 0: it may be an epsilon that keeps a divisor away from 0.

    Args:
        array: Any shape.
        half: The format.
        cut: It is a mask: large negative numbers become ``-half.cut``.
    """
    low = np.float32(-half.cut if cut else -half.largest)
    flat = array.reshape(-1)
    result = np.empty(flat.shape, half.dtype)
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, flat.size, BLOCK):
            part = flat[start : start + BLOCK]
            kept = np.where(np.isfinite(part), np.clip(part, low, np.float32(half.largest)), part)
            result[start : start + BLOCK] = kept.astype(half.dtype)
        if flat.size == 1 and flat[0] != 0 and result.astype(np.float32)[0] == 0:
            result[:] = np.copysign(np.float32(half.smallest), flat).astype(half.dtype)
    return result.reshape(array.shape)
