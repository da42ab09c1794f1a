"""Quantizes the weights and biases of a plan; biases take back the mean error of the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.arrays import Floats, Singles
from onnxslim.model.constants import constant
from onnxslim.pipeline.interface import Context

from .integers import INT8, IntegerType
from .plan import QuantPlan, TensorScales
from .saturation import Saturation
from .scales import ScaleChoice
from .site import QuantSite
from .weights import QuantizedWeight, quantize_weight

EMPTY: Mapping[str, QuantizedWeight] = {}


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What a plan is carried out with."""

    choice: ScaleChoice
    weights: Mapping[ir.Node, QuantizedWeight]
    """Of each site that has one."""
    biases: Mapping[ir.Node, Floats]
    """Of each site that has one."""


@dataclasses.dataclass(frozen=True)
class WeightSettings:
    """The options of the pass that concern weights."""

    saturation: Saturation
    """Not `AUTO`."""
    per_channel: bool
    search: bool
    """Look for the scales with the smallest error."""
    integers: IntegerType = INT8
    """What weights become."""
    wider: frozenset[str] = frozenset()
    """Sites, by their keys, whose weights become int8 all the same."""

    def integers_of(self, site: QuantSite) -> IntegerType:
        """Return what the weight of a site becomes."""
        return INT8 if site.key in self.wider else self.integers

    def saturation_of(self, site: QuantSite) -> Saturation:
        """Return what the products of a site are guarded against."""
        exact = site.row.depthwise == "exact" and site.product is not None and site.product.depthwise
        return Saturation.IGNORE if exact or self.integers_of(site).narrow else self.saturation


def quantize_parameters(
    plan: QuantPlan,
    scales: TensorScales,
    means: Mapping[str, Floats],
    settings: WeightSettings,
    context: Context,
    fitted: Mapping[str, QuantizedWeight] = EMPTY,
) -> tuple[dict[ir.Node, QuantizedWeight], dict[ir.Node, Floats]]:
    """Return the weight and the bias of every site that has one.

    `means` holds the mean of each channel of tensors, by name; biases behind others are not corrected. `fitted` holds
    weights that are quantized already, by the keys of their sites: they are taken where their biases fit into int32.
    """
    biases: dict[ir.Node, Floats] = {}
    floors: dict[ir.Value, Floats] = {}
    for site in plan.sites:
        bias = constant(site.bias)
        if site.product is None or bias is None:
            continue
        biases[site.node] = bias.astype(np.float64)
        weight, floor = site.product.weight, bias_floor(bias, scales.of(site, site.operands()[0]).scale)
        floors[weight] = np.maximum(floors.get(weight, np.zeros(1)), floor)
    quantized: dict[tuple[ir.Value, int], QuantizedWeight] = {}
    weights: dict[ir.Node, QuantizedWeight] = {}
    for index, site in enumerate(plan.sites):
        array = None if site.product is None else constant(site.product.weight)
        if site.product is None or site.product.weight_axis is None or array is None:
            continue
        weight, axis = key = site.product.weight, site.product.weight_axis
        if key not in quantized:
            floor = floors.get(weight, np.zeros(1))
            ready = fitted.get(site.key)
            fits = ready is not None and bool((ready.scale >= floor).all())
            quantized[key] = ready if ready is not None and fits else quantize_site_weight(site, settings, floor)
        weights[site.node] = quantized[key]
        mean = means.get(site.operands()[0].name or "")
        if mean is not None and site.node in biases:
            biases[site.node] += bias_correction(array, quantized[key].dequantized(), axis, mean)
        context.progress("quantizing weights", index + 1, len(plan.sites))
    return weights, biases


def quantize_site_weight(site: QuantSite, settings: WeightSettings, floor: Floats | float = 0.0) -> QuantizedWeight:
    """Return the weight of a site that has one, each number rounded to the nearest level; no scale below `floor`."""
    assert site.product is not None
    array, axis = constant(site.product.weight), site.product.weight_axis
    assert array is not None
    assert axis is not None
    return quantize_weight(
        array.astype(np.float32, copy=False),
        axis,
        integers=settings.integers_of(site),
        packing=site.row.packing,
        saturation=settings.saturation_of(site),
        per_channel=settings.per_channel,
        search=settings.search,
        floor=floor,
    )


def quantize_bias(bias: Any, input_scale: np.float32, weight: QuantizedWeight) -> tuple[npt.NDArray[np.int32], Singles]:
    """Return a bias as int32, and its scale: what one product of input and weight counts for."""
    scale = (input_scale * weight.scale).astype(np.float32)
    info = np.iinfo(np.int32)
    levels = np.clip(np.rint(np.asarray(bias, np.float64) / scale), info.min, info.max)
    return levels.astype(np.int32), scale


def bias_correction(weight: Singles, quantized: Singles, axis: int, means: Floats) -> Floats:
    """Return what to add to the bias of each output channel to take back the mean error of its quantized weights.

    E[Wx - W'x] = (W - W') E[x] (Nagel et al., "Data-free quantization through weight equalization and bias correction",
    ICCV 2019, with observed means in place of those that BatchNormalization stores). Padding is left out of account: at
    the border of an image the mean is a little off.

    Args:
        weight: The float weight.
        quantized: The weight that its levels stand for.
        axis: Its axis of output channels; the next one holds the input channels of one group.
        means: The mean of each input channel, of all groups.
    """
    lost = np.moveaxis(np.asarray(weight, np.float64) - quantized, axis, 0)
    lost = lost.reshape(*lost.shape[:2], -1).sum(axis=2)
    groups = len(means) // lost.shape[1]
    grouped = lost.reshape(groups, -1, lost.shape[1])
    return np.asarray(np.einsum("goc,gc->go", grouped, means.reshape(groups, -1)).reshape(-1))


def bias_floor(bias: Any, input_scale: np.float32) -> Floats:
    """Return the smallest weight scales with which `bias` stays below 2**30 in int32, room for sums included."""
    return np.abs(np.asarray(bias, np.float64)) / (float(input_scale) * 2**30)
