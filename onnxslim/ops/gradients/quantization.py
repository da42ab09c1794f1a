"""Gradients of the ops between real numbers and the integers that stand for them: straight through the rounding.

The gradient of an integer is that of the real number that it would be, were it not rounded. With x / s + z held between
the smallest and the largest integer, QuantizeLinear then is the clipped identity in units of the scale, and
DequantizeLinear a product. The two in a row pass on dy where x is in range, and to the scale

    sum of dy * (round(x / s) - x / s)    where x is in range
    sum of dy * (q - z)                   where it is held at an end q

Sources: Y. Bengio, N. Leonard and A. Courville, Estimating or Propagating Gradients Through Stochastic Neurons,
arXiv:1308.3432 (2013); S. K. Esser and others, Learned Step Size Quantization, arXiv:1902.08153 (2020), equation 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.ops.fact import axis_of
from onnxslim.ops.gradient import Declined, Gradient, GradientSite, Shape, static_shape
from onnxslim.ops.gradients.movement import Gradients
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName


def quantize(site: GradientSite) -> Gradients:
    """QuantizeLinear: dx = dq / s where x is in range, ds = -dx * x / s, summed over what has one scale."""
    kind = site.result().dtype
    if kind is None or not kind.is_integer():
        raise Declined("it makes no integers")
    low, high = (int(bound) for bound in (kind.min, kind.max))
    scale = _spread(site, site.operand(1))
    ratio = site.op("Div", site.operand(0), scale)
    zero = constant(site.operand(2)) if site.has(2) else np.zeros((), np.int64)
    if zero is not None and len(np.unique(zero)) == 1:
        offset = float(zero.reshape(-1)[0])
        held = site.op("Clip", ratio, low - offset, high - offset)
    else:
        shift = _spread(site, site.op("Cast", site.operand(2), to=int(site.dtype)))
        least, most = (site.op("Sub", float(bound), shift) for bound in (low, high))
        held = site.op("Max", site.op("Min", ratio, most), least)
    inside = site.op("Equal", held, ratio)
    through = site.op("Mul", site.op("Div", site.incoming(), scale), site.mask(inside))
    found: dict[int, ir.Value | None] = {0: through}
    if 1 in site.wanted:
        found[1] = _gathered(site, site.op("Neg", site.op("Mul", through, ratio)))
    return found


def dequantize(site: GradientSite) -> Gradients:
    """DequantizeLinear: dq = dy * s, ds = dy * (q - z), summed over what has one scale."""
    incoming = site.incoming()
    found: dict[int, ir.Value | None] = {}
    if 0 in site.wanted:
        found[0] = site.op("Mul", incoming, _spread(site, site.operand(1)))
    if 1 in site.wanted:
        code = site.op("Cast", site.operand(0), to=int(site.dtype))
        if site.has(2):
            code = site.op("Sub", code, _spread(site, site.op("Cast", site.operand(2), to=int(site.dtype))))
        found[1] = _gathered(site, site.op("Mul", incoming, code))
    return found


def _places(site: GradientSite) -> tuple[Shape, Shape]:
    """Return the shape of the data with the axis of the scales in blocks, and that of the scales that broadcasts to it.

    Raises:
        Declined: The blocks do not fill the axis.
    """
    shape, scales = site.shape(0), site.shape(1)
    if math.prod(scales) == 1 and len(scales) < 2:
        return shape, (1,) * len(shape)
    axis = axis_of(read(site, "axis", 1), len(shape))
    if len(scales) == 1:
        return shape, tuple(size if place == axis else 1 for place, size in enumerate(shape))
    if scales[axis] == 0 or shape[axis] % scales[axis] or shape[axis] != read(site, "block_size") * scales[axis]:
        raise Declined("its blocks do not fill the axis that they lie on")
    blocks = (*shape[:axis], scales[axis], shape[axis] // scales[axis], *shape[axis + 1 :])
    return blocks, (*shape[:axis], scales[axis], 1, *shape[axis + 1 :])


def _spread(site: GradientSite, scale: ir.Value) -> ir.Value:
    """Return scales, or zero points, as they broadcast to the data."""
    whole, own = _places(site)
    if whole == site.shape(0):
        return scale if math.prod(own) == 1 and len(static_shape(scale)) <= len(whole) else site.reshape(scale, own)
    return site.reshape(site.op("Expand", site.reshape(scale, own), list(whole)), site.shape(0))


def _gathered(site: GradientSite, value: ir.Value) -> ir.Value:
    """Return the sums of a value of the shape of the data over the elements that have one scale."""
    whole, own = _places(site)
    return site.reshape(site.sum_to(site.reshape(value, whole), own), site.shape(1))


GRADIENTS: Mapping[OpName, Gradient] = {
    (domain, op_type): gradient
    for domain in ("", "com.microsoft")
    for op_type, gradient in (("QuantizeLinear", quantize), ("DequantizeLinear", dequantize))
}
