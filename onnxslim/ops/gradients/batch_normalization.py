"""Gradients of normalisations across samples or channels: BatchNormalization, and of local responses (LRN).

Sources: S. Ioffe and C. Szegedy, Batch Normalization (2015), section 3; A. Krizhevsky, I. Sutskever and G. E. Hinton,
ImageNet Classification with Deep Convolutional Neural Networks (2012), section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.ops.gradient import Gradient, GradientSite
from onnxslim.ops.gradients.normalization import normalize
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName


def batch_normalization(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """BatchNormalization: X, scale, shift, and the mean and variance of what was seen before."""
    return _by_batch(site) if read(site, "training_mode") else _by_given(site)


def _by_given(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Return the gradients where the data are normalised by a mean and a variance that are given.

    The op is linear in the data, and its own kernel takes what comes back to them.
    """
    op, gradient = site.op, site.incoming()
    scale, mean, variance = site.operand(1), site.operand(3), site.operand(4)
    made: dict[int, ir.Value | None] = {}
    if 0 in site.wanted:
        made[0] = _normalized(site, gradient, scale, _filled(site, mean, 0))
    if site.wanted & {2, 3}:
        made[2] = _over_channels(site, gradient)
    if site.wanted & {1, 4}:
        value = _normalized(site, site.operand(), _filled(site, scale, 1), mean)
        made[1] = _over_channels(site, op("Mul", gradient, value))
    spread = op("Add", variance, read(site, "epsilon")) if site.wanted & {3, 4} else variance
    if 3 in site.wanted:
        slope = op("Div", op("CastLike", scale, mean), op("Sqrt", spread))
        made[3] = op("Neg", op("Mul", op("CastLike", made[2], mean), slope))
    if 4 in site.wanted:
        slope = op("Mul", op("Div", op("CastLike", scale, variance), spread), -0.5)
        made[4] = op("Mul", op("CastLike", made[1], variance), slope)
    return made


def _normalized(site: GradientSite, data: ir.Value, scale: ir.Value, mean: ir.Value) -> ir.Value:
    """Return data as the node would normalise them, with another scale and mean, and without a shift."""
    shift = _filled(site, site.operand(2), 0)
    epsilon = read(site, "epsilon")
    return site.op("BatchNormalization", data, scale, shift, mean, site.operand(4), epsilon=epsilon)


def _by_batch(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """Return the gradients where the data are normalised by their own mean and variance.

    Outputs 1 and 2 are ``momentum`` of the mean and variance that are given, and the rest of those of the data.
    """
    op, shape = site.op, site.shape()
    rank, momentum = len(shape), read(site, "momentum")
    found = normalize(site, site.operand(), [0, *range(2, rank)], read(site, "epsilon"))
    gradient = site.incoming()
    made: dict[int, ir.Value | None] = {}

    def along(channels: ir.Value) -> ir.Value:
        return site.reshape(channels, (shape[1], *[1] * (rank - 2)))

    if 0 in site.wanted:
        data = found.back(op("Mul", gradient, along(site.operand(1))))
        share = (1 - momentum) / math.prod(shape) * shape[1]
        if site.hangs_on(1):
            data = op("Add", data, op("CastLike", op("Mul", along(site.incoming(1)), share), data))
        if site.hangs_on(2):
            slope = op("CastLike", op("Mul", along(site.incoming(2)), 2 * share), data)
            data = op("Add", data, op("Mul", op("Div", found.value, found.inverse), slope))
        made[0] = data
    if 1 in site.wanted:
        made[1] = _over_channels(site, op("Mul", gradient, found.value))
    if 2 in site.wanted:
        made[2] = _over_channels(site, gradient)
    for operand, output in ((3, 1), (4, 2)):
        if operand in site.wanted and site.hangs_on(output):
            made[operand] = op("Mul", site.incoming(output), momentum)
    return made


def _over_channels(site: GradientSite, value: ir.Value) -> ir.Value:
    """Return the sums of a value of the shape of the data for each channel, of the type of the scale."""
    return site.op("CastLike", site.sum(value, [0, *range(2, len(site.shape()))]), site.operand(1))


def _filled(site: GradientSite, like: ir.Value, number: float) -> ir.Value:
    """Return a constant that holds one number for each channel, of the type of `like`."""
    assert like.dtype is not None
    return site.build.constant(np.full(site.shape()[1], number, like.dtype.numpy()))


def local_response(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """LRN: y = x / d ** beta with d = bias + alpha * mean of the squares of `size` channels around.

    The mean, in which channels beyond the ends are zeros, is that of a pool over channels. A channel lies in the
    windows of those around it, mirrored where `size` is even.
    """
    op, shape = site.op, site.shape()
    size, alpha, beta = read(site, "size"), read(site, "alpha"), read(site, "beta")
    before = (size - 1) // 2
    image = (shape[0], 1, shape[1], math.prod(shape[2:]))

    def window(value: ir.Value, first: int) -> ir.Value:
        pads, kernel = [first, 0, size - 1 - first, 0], [size, 1]
        pooled = op("AveragePool", site.reshape(value, image), kernel_shape=kernel, pads=pads, count_include_pad=1)
        return site.reshape(pooled, shape)

    data, gradient = site.operand(), site.incoming()
    base = op("Add", op("Mul", window(op("Mul", data, data), before), alpha), read(site, "bias"))
    scaled = op("Mul", gradient, op("Pow", base, -beta))
    around = window(op("Div", op("Mul", scaled, data), base), size - 1 - before)
    return {0: op("Sub", scaled, op("Mul", op("Mul", data, around), 2 * alpha * beta))}


GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "BatchNormalization"): batch_normalization,
    ("", "LRN"): local_response,
}
