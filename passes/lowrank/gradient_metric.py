"""The metric of the output of a layer by gradients: what the outputs of the model make of its errors, to first order.

`output_metric` and `attention_metric` look as far as the next product. Here errors go all the way: through residual
branches, normalisations that divide by what is large, and attention that reads some places and not others. M is the
mean of gg' over places, samples and random directions of the outputs, where g is the gradient by what the layer gives.
On MiniLM without 30 % of the parameters of its products that is worth 0.5 dB of the token vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.arrays import Floats
from onnxslim.observe.products import add_products
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.opset import differentiable
from onnxslim.pipeline.output_directions import OutputDirections, affordable_runs

HINT = "leave out weighing=gradients"
SAMPLES = 256
"""Samples at most. On MiniLM, 64 of them are worth 0.2 of the 0.5 dB."""
DIRECTIONS = 4
"""Of the outputs of each sample, where there is time."""
ENOUGH = 4
"""Gradients for each output of a layer: with fewer the metric is that of these samples alone."""


def gradient_metrics(
    model: ir.Model, layers: Sequence[LinearLayer], macs: int, context: Context
) -> Mapping[str, Floats]:
    """Return the metrics of layers, by name, shape [outputs, outputs]; of those that have one and were seen enough.

    Layers with a window have none: their splits have no closed form for it.

    Args:
        model: Not changed.
        layers: Some of its layers.
        macs: Multiply-accumulates of one run.
        context: The context of the pass.

    Raises:
        NotDifferentiable: An op between a layer and an output has no gradient.
        RunError: The model does not run on the samples.
    """
    seen = {
        layer.node.outputs[0].name or "": layer
        for layer in layers
        if len(layer.uses) == 1 and math.prod(layer.kernel) == 1 and layer.first.output_axis is not None
    }
    if not seen:
        return {}
    runs = max(1, affordable_runs(macs))
    along = OutputDirections(model, min(SAMPLES, runs), context, "lowrank: gradients", HINT)
    directions = max(1, min(DIRECTIONS, runs // along.count))
    sums = {name: np.zeros((layer.outputs, layer.outputs)) for name, layer in seen.items()}
    rows = dict.fromkeys(seen, 0)
    for found in along.gradients(differentiable(model, HINT), list(seen), directions):
        for name, gradient in found.items():
            flat = np.moveaxis(gradient, seen[name].first.output_axis or 0, -1).reshape(-1, seen[name].outputs)
            flat = np.ascontiguousarray(flat, np.float32)
            add_products(sums[name], flat, flat)
            rows[name] += len(flat)
    return {
        layer.name: sums[name] / rows[name]
        for name, layer in seen.items()
        if rows[name] >= ENOUGH * layer.outputs and np.isfinite(sums[name]).all() and np.trace(sums[name]) > 0
    }
