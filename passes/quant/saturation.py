"""Keeps int8 weights exact on processors whose uint8 x int8 products saturate.

On x86 without VNNI, ONNX Runtime's kernels (MLAS, `qgemm_kernel_avx2.cpp` and its assembly) multiply with VPMADDUBSW:
it multiplies unsigned activations by signed weights, adds neighbouring products in pairs, and saturates each sum at
int16 (Intel SDM; "Quantize ONNX models", onnxruntime.ai, on U8S8; onnxruntime#6004, #12072). Two products of 255 x
127 make 64,770, and become 32,767.

The usual remedy is to give a bit away: weights of 7 bits (`reduce_range`). But a sum overflows only where *both*
weights of a pair are large and of one sign. Which weights meet in a pair was found out by experiment (and tests
repeat it): the kernels walk along the products of one output channel and pair the 1st with the 2nd, the 3rd with the
4th, ...; a last one without a partner is alone. The order is the plain one for Gemm and MatMul, and (kernel position,
input channel) for Conv, input channels fastest, per group. Depthwise kernels add into int32 and need nothing.

So it suffices that in each pair the positive parts sum up to at most 128, and the negative parts to at least -128:
255 x 128 = 32,640 <= 32,767. Pairs that do not fit are moved to the nearest point that does, which costs accuracy for
those weights alone, and each channel's scale is chosen with this cost in view. On VNNI, where nothing saturates, such
weights are as right as any others.
"""

from __future__ import annotations

import enum

import numpy as np

from onnxslim.arrays import Array, Singles

from .integers import IntegerType

PAIR_LIMIT = 32767 // 255
"""The largest sum of two weights of one sign that no activations can make overflow."""
HALF_RANGE = 64
"""The largest weight that `reduce_range` allows."""
FULL_RANGE = 127
"""The largest weight in int8, symmetrically."""


class Saturation(enum.Enum):
    """What keeps sums of products from saturating."""

    AUTO = "auto"
    """`PAIRS` where the target saturates, `IGNORE` elsewhere."""
    PAIRS = "pairs"
    """No two neighbouring weights of a channel sum up to more than the kernel can hold."""
    REDUCE_RANGE = "reduce_range"
    """Weights of 7 bits."""
    IGNORE = "ignore"
    """Weights of 8 bits, come what may."""

    def ends(self, integers: IntegerType) -> tuple[int, int]:
        """Return the lowest and the highest level of weights; those of fewer than 8 bits are small enough as they are.

        int8 does without -128: a level more at one end is no gain where there are so many.
        """
        if integers.narrow:
            return integers.lowest, integers.highest
        largest = HALF_RANGE if self is Saturation.REDUCE_RANGE else FULL_RANGE
        return -largest, largest

    def on(self, saturates: bool) -> Saturation:
        """Return what `AUTO` means on a target that saturates, or does not."""
        if self is not Saturation.AUTO:
            return self
        return Saturation.PAIRS if saturates else Saturation.IGNORE


def products_in_order(weight: Array, axis: int, packing: str | None) -> Array:
    """Return `weight` as (output channels, products), in the order in which the kernel adds them up.

    With the packing ``channels last`` the axis after that of the output channels (the input channels) runs fastest.
    """
    rows = np.moveaxis(weight, axis, 0)
    if packing == "channels last":
        rows = np.moveaxis(rows, 1, -1)
    return rows.reshape(len(rows), -1)


def restore_order(rows: Array, shape: tuple[int, ...], axis: int, packing: str | None) -> Array:
    """Undo `products_in_order` for a weight of that `shape`."""
    ordered = [shape[axis], *(size for index, size in enumerate(shape) if index != axis)]
    if packing == "channels last":
        ordered.append(ordered.pop(1))
        rows = np.moveaxis(rows.reshape(ordered), -1, 1)
    else:
        rows = rows.reshape(ordered)
    return np.ascontiguousarray(np.moveaxis(rows, 0, axis))


def fit_pairs(levels: Singles) -> Singles:
    """Return whole numbers next to `levels` of which no pair of neighbours in a row sums up to more than the limit.

    Args:
        levels: (rows, products), real numbers, at most `FULL_RANGE` in magnitude.
    """
    rounded = np.rint(levels)
    even = levels.shape[1] // 2 * 2
    left, right = levels[:, 0:even:2], levels[:, 1:even:2]
    overflowing = (np.abs(rounded[:, 0:even:2] + rounded[:, 1:even:2]) > PAIR_LIMIT) & (left * right > 0)
    if overflowing.any():
        rows, pairs = np.nonzero(overflowing)
        left_size, right_size = np.abs(left[overflowing]), np.abs(right[overflowing])
        # the nearest point of the line left + right = limit, between its ends
        nearest = np.clip(np.rint((PAIR_LIMIT + left_size - right_size) / 2), PAIR_LIMIT - FULL_RANGE, FULL_RANGE)
        sign = np.sign(left[overflowing])
        rounded[rows, 2 * pairs] = sign * nearest
        rounded[rows, 2 * pairs + 1] = sign * (PAIR_LIMIT - nearest)
    return rounded
