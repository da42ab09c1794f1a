"""Gradients of normalisations over the elements of a sample: LayerNormalization, GroupNormalization and their kin.

With n = (x - mean) / deviation, taken along some axes, and g what comes back to n:
dx = (g - mean (g) - n * mean (g * n)) / deviation. Where no mean is subtracted, that of g is not either. Source: J. L.
Ba, J. R. Kiros and G. E. Hinton, Layer Normalization (2016).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.ops.gradient import Gradient, GradientSite
from onnxslim.ops.parameters import read
from onnxslim.ops.signatures import OpName

EPSILON = 1e-5
"""What is added to a variance where neither the node nor a schema says."""
SKIP_EPSILON = 1e-12
"""The same of ONNX Runtime's ops that add a second operand first."""


@dataclasses.dataclass(frozen=True)
class Normalized:
    """Data that are normalised along some axes, not yet scaled."""

    site: GradientSite
    value: ir.Value
    inverse: ir.Value
    """One over the deviation; the axes are there, of size 1."""
    axes: Sequence[int]
    centred: bool

    def mean(self, value: ir.Value) -> ir.Value:
        """Return the means along the axes, which stay."""
        return self.site.op("ReduceMean", value, list(self.axes), keepdims=1)

    def back(self, gradient: ir.Value) -> ir.Value:
        """Return the gradient of the data, given that of `value`."""
        op = self.site.op
        along = op("Mul", self.value, self.mean(op("Mul", gradient, self.value)))
        if self.centred:
            gradient = op("Sub", gradient, self.mean(gradient))
        return op("Mul", op("Sub", gradient, along), self.inverse)


def normalize(
    site: GradientSite, data: ir.Value, axes: Sequence[int], epsilon: float, *, centred: bool = True
) -> Normalized:
    """Return nodes that normalise data along some axes, as an op has done that keeps no statistics."""
    op = site.op
    if centred:
        data = op("Sub", data, op("ReduceMean", data, list(axes), keepdims=1))
    variance = op("ReduceMean", op("Mul", data, data), list(axes), keepdims=1)
    inverse = op("Reciprocal", op("Sqrt", op("Add", variance, epsilon)))
    return Normalized(site, op("Mul", data, inverse), inverse, axes, centred)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """The outputs of a node that are statistics of its data."""

    mean: int | None = None
    inverse: int | None = None
    """One over the deviation, or over the root of the mean square."""


def layer_normalization(
    site: GradientSite, *, centred: bool, statistics: Statistics = Statistics()
) -> Mapping[int, ir.Value | None]:
    """LayerNormalization, RMSNormalization, SimplifiedLayerNormalization: X, scale and shift."""
    rank = len(site.shape())
    axes = list(range(read(site, "axis", -1) % rank, rank))
    if statistics.inverse is not None and ir.DataType(read(site, "stash_type", 1)) == site.operand().dtype:
        data, inverse = site.operand(), site.result(statistics.inverse)
        if statistics.mean is not None:
            data = site.op("Sub", data, site.result(statistics.mean))
        found = Normalized(site, site.op("Mul", data, inverse), inverse, axes, centred)
    else:  # the node has none, or less precise ones
        found = normalize(site, site.operand(), axes, read(site, "epsilon", EPSILON), centred=centred)
    made = _scaled(site, found, scale=1, shift=2)
    if 0 in site.wanted:
        made[0] = _through(site, found, statistics, made[0])
    return made


def _through(site: GradientSite, found: Normalized, statistics: Statistics, gradient: ir.Value) -> ir.Value:
    """Add to the gradient of the data what comes back through the outputs that are their statistics."""
    op = site.op
    count = float(math.prod(site.shape()[axis] for axis in found.axes))
    if statistics.mean is not None and site.hangs_on(statistics.mean):
        share = op("Div", op("CastLike", site.incoming(statistics.mean), gradient), count)
        gradient = op("Add", gradient, share)
    if statistics.inverse is not None and site.hangs_on(statistics.inverse):
        share = op("Div", op("CastLike", site.incoming(statistics.inverse), gradient), count)
        slope = op("Mul", found.value, op("Mul", found.inverse, found.inverse))
        gradient = op("Sub", gradient, op("Mul", share, slope))
    return gradient


def _scaled(site: GradientSite, found: Normalized, *, scale: int, shift: int | None) -> dict[int, ir.Value]:
    """Return the gradients of the data, as input 0, and of what scales and shifts them, where these are wanted."""
    gradient = site.incoming()
    made = {0: found.back(site.op("Mul", gradient, site.operand(scale)))}
    if scale in site.wanted:
        made[scale] = site.sum_to(site.op("Mul", gradient, found.value), site.shape(scale))
    if shift in site.wanted and shift is not None:
        made[shift] = site.sum_to(gradient, site.shape(shift))
    return made


def skip_layer_normalization(
    site: GradientSite, *, shift: int | None, bias: int, centred: bool
) -> Mapping[int, ir.Value | None]:
    """SkipLayerNormalization and its kin without a mean: both summands, scale (input 2), shift and bias.

    Output 3 is the sum of X, skip and bias, which is normalised.
    """
    axes = [len(site.shape()) - 1]
    found = normalize(site, site.result(3), axes, read(site, "epsilon", SKIP_EPSILON), centred=centred)
    made = _scaled(site, found, scale=2, shift=shift)
    if site.hangs_on(3):
        made[0] = site.op("Add", made[0], site.incoming(3))
    made.update({index: site.sum_to(made[0], site.shape(index)) for index in (1, bias) if index in site.wanted})
    return made


def group_normalization(site: GradientSite) -> Mapping[int, ir.Value | None]:
    """GroupNormalization, and InstanceNormalization, which has a group for each channel.

    Scale and shift are those of groups in operator set 18, and those of channels since 21: data of shape [n, c, ...]
    are looked at as [n, k, -1] for k factors, and as [n, groups, -1] where they are normalised.
    """
    shape, factors = site.shape(), site.shape(1)[0]
    groups = read(site, "num_groups") or shape[1]
    by_factor, by_group = ((shape[0], parts, math.prod(shape[1:]) // parts) for parts in (factors, groups))
    found = normalize(site, site.reshape(site.operand(), by_group), [2], read(site, "epsilon"))
    gradient = site.reshape(site.incoming(), by_factor)
    made: dict[int, ir.Value | None] = {}
    if 0 in site.wanted:
        scaled = site.op("Mul", gradient, site.reshape(site.operand(1), (factors, 1)))
        made[0] = site.reshape(found.back(site.reshape(scaled, by_group)), shape)
    if 1 in site.wanted:
        made[1] = site.sum(site.op("Mul", gradient, site.reshape(found.value, by_factor)), [0, 2])
    if 2 in site.wanted:
        made[2] = site.sum(gradient, [0, 2])
    return made


GRADIENTS: Mapping[OpName, Gradient] = {
    ("", "LayerNormalization"): functools.partial(layer_normalization, centred=True, statistics=Statistics(1, 2)),
    ("", "RMSNormalization"): functools.partial(layer_normalization, centred=False),
    ("", "SimplifiedLayerNormalization"): functools.partial(
        layer_normalization, centred=False, statistics=Statistics(inverse=1)
    ),
    ("com.microsoft", "SkipLayerNormalization"): functools.partial(
        skip_layer_normalization, shift=3, bias=4, centred=True
    ),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): functools.partial(
        skip_layer_normalization, shift=None, bias=3, centred=False
    ),
    ("", "GroupNormalization"): group_normalization,
    ("", "InstanceNormalization"): group_normalization,
}
