"""Quantizes the weights and biases of a plan; biases take back the mean error of the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import constant
from onnxslim.pipeline.interface import Context

from .plan import QuantPlan
from .saturation import Saturation
from .scales import Scale
from .site import QuantSite
from .weights import QuantizedWeight, quantize_weight

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class WeightSettings:
    """The options of the pass that concern weights."""

    saturation: Saturation
    """Not `AUTO`."""
    per_channel: bool
    search: bool
    """Look for the scales with the smallest error."""


def quantize_parameters(
    plan: QuantPlan,
    scales: Mapping[ir.Value, Scale],
    means: Mapping[str, Floats],
    settings: WeightSettings,
    context: Context,
) -> tuple[dict[ir.Node, QuantizedWeight], dict[ir.Node, Floats]]:
    """Return the weight and the bias of every site that has one.

    Args:
        plan: Its sites.
        scales: Of its tensors.
        means: The mean of each channel of tensors, by name; biases behind others are not corrected.
        settings: How weights are quantized.
        context: Told how far it is.
    """
    biases: dict[ir.Node, Floats] = {}
    floors: dict[ir.Value, Floats] = {}
    for site in plan.sites:
        if site.weight is None or site.bias is None:
            continue
        weight, array = site.node.inputs[site.weight], constant(site.node.inputs[site.bias])
        assert weight is not None
        assert array is not None
        biases[site.node] = array.astype(np.float64)
        floor = bias_floor(array, scales[site.operands()[0]].scale)
        floors[weight] = np.maximum(floors.get(weight, np.zeros(1)), floor)
    quantized: dict[tuple[ir.Value, int], QuantizedWeight] = {}
    weights: dict[ir.Node, QuantizedWeight] = {}
    for index, site in enumerate(plan.sites):
        if site.weight is None or site.axis is None:
            continue
        weight = site.node.inputs[site.weight]
        array = constant(weight)
        assert weight is not None
        assert array is not None
        key = weight, site.axis
        if key not in quantized:
            quantized[key] = quantize_weight(
                array.astype(np.float32, copy=False),
                site.axis,
                packing=site.row.packing,
                saturation=Saturation.IGNORE if _adds_exactly(site, array) else settings.saturation,
                per_channel=settings.per_channel,
                search=settings.search,
                floor=floors.get(weight, 0.0),
            )
        weights[site.node] = quantized[key]
        mean = means.get(site.operands()[0].name or "")
        if mean is not None and site.node in biases:
            biases[site.node] += bias_correction(array, quantized[key].dequantized(), site.axis, mean)
        context.progress("quantizing weights", index + 1, len(plan.sites))
    return weights, biases


def _adds_exactly(site: QuantSite, weight: npt.NDArray[np.generic]) -> bool:
    """Whether this is a depthwise convolution, and the kernel for it does not saturate."""
    group = site.node.attributes.get_int("group", 1)
    return site.row.depthwise == "exact" and group == weight.shape[0] and bool(weight.shape[1] == 1)


def quantize_bias(
    bias: Any, input_scale: np.float32, weight: QuantizedWeight
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return a bias as int32, and its scale: what one product of input and weight counts for."""
    scale = (input_scale * weight.scale).astype(np.float32)
    info = np.iinfo(np.int32)
    levels = np.clip(np.rint(np.asarray(bias, np.float64) / scale), info.min, info.max)
    return levels.astype(np.int32), scale


def bias_correction(
    weight: npt.NDArray[np.float32], quantized: npt.NDArray[np.float32], axis: int, means: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
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


def bias_floor(bias: Any, input_scale: np.float32) -> npt.NDArray[np.float64]:
    """Return the smallest weight scales with which `bias` stays below 2**30 in int32, room for sums included."""
    return np.abs(np.asarray(bias, np.float64)) / (float(input_scale) * 2**30)
