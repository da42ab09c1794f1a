"""Moves into the bias what rounding the weights adds to each output channel on average.

The error of the weights, times the mean input, is the mean error of the output: E[Wx - W'x] = (W - W') E[x]. It is
known after calibration, and the bias takes it back at no cost (Nagel et al., "Data-free quantization through weight
equalization and bias correction", ICCV 2019, with observed means in place of those that BatchNormalization tells).
Padding is left out of account: at the border of an image the mean is a little off.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.pipeline.interface import Context

from .observe import Floats, ReductionGraph


def mean_probe(model: ir.Model, axes: Mapping[str, tuple[int, int]]) -> ReductionGraph:
    """Return a probe that gives ``sum<i>`` and ``count<i>``, numbers for each channel, for the i-th named tensor.

    Args:
        model: The model.
        axes: For each tensor its axis of channels and its rank.
    """
    probe = ReductionGraph(model)
    for index, (name, (axis, rank)) in enumerate(axes.items()):
        others = probe.hold(
            np.array([other for other in range(rank) if other != axis], np.int64), f"axes{index}_of_mean"
        )
        value = probe.values[name]
        probe.give(probe.add("ReduceSum", value, others, keepdims=0), f"sum{index}")
        probe.give(probe.add("ReduceSum", probe.ones(value), others, keepdims=0), f"count{index}")
    return probe


def observe_means(
    model: ir.Model, axes: Mapping[str, tuple[int, int]], context: Context, samples: Samples
) -> dict[str, Floats]:
    """Return the mean of each channel of each tensor over all samples."""
    sums: dict[str, Floats] = {}
    counts: dict[str, Floats] = {}
    for found in mean_probe(model, axes).run(context, samples, "calibration: means"):
        for index, name in enumerate(axes):
            sums[name] = sums.get(name, np.zeros(1)) + found[f"sum{index}"].astype(np.float64)
            counts[name] = counts.get(name, np.zeros(1)) + found[f"count{index}"].astype(np.float64)
    return {name: total / np.maximum(counts[name], 1) for name, total in sums.items()}


def correction(weight: npt.NDArray[np.float32], quantized: npt.NDArray[np.float32], axis: int, means: Floats) -> Floats:
    """Return what to add to the bias of each output channel.

    Args:
        weight: What the weight was.
        quantized: What it is now.
        axis: Its axis of output channels; the next one holds the input channels of one group.
        means: The mean of each input channel, of all groups.
    """
    lost = np.moveaxis(np.asarray(weight, np.float64) - quantized, axis, 0)
    lost = lost.reshape(*lost.shape[:2], -1).sum(axis=2)
    groups = len(means) // lost.shape[1]
    grouped = lost.reshape(groups, -1, lost.shape[1])
    return np.asarray(np.einsum("goc,gc->go", grouped, means.reshape(groups, -1)).reshape(-1))
