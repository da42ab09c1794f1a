"""Estimates the error that rounding brings, part by part, from gradients: for all parts at once, to first order.

A part mixed as `x + s (rounded(x) - x)` is itself at s = 0. The derivative by s along a random direction of the outputs
(`onnxslim.pipeline.output_directions`) has as its mean square the energy of J (rounded(x) - x), where J is the Jacobian
of the outputs by that part. A run forward and back gives it for every part, where a measurement takes a run for each.

Source: Z. Dong and others, HAWQ-V2, NeurIPS 2020, which takes the trace of the Hessian and the size of the rounding
error for independent of each other; here the two stand together, with the Gauss-Newton matrix for the Hessian.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.observe.probe import Probe
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.opset import differentiable
from onnxslim.pipeline.output_directions import OutputDirections, affordable_runs

from .rounded import Part, round_part

HINT = "quantize it with measured errors"
RUNS = (8, 128)
"""Runs at least and at most. The standard error of an estimate is the square root of 2 / runs, at most."""
SAMPLES = 32
"""Samples at most; each is run along several directions."""


def noise_by_gradients(model: ir.Model, parts: Sequence[Part], macs: int, context: Context) -> list[float]:
    """Return the energy of the noise of the outputs where each part alone is rounded, as a share of theirs.

    Of samples of several shapes those of the commonest one are used.

    Args:
        model: It is not changed.
        parts: What can be rounded.
        macs: Multiply-accumulates of one run.
        context: The context of the pass.

    Raises:
        NotDifferentiable: An op between a part and an output has no gradient.
        RunError: The model does not run on the samples.
    """
    least, most = RUNS
    runs = min(most, max(least, affordable_runs(macs)))
    along = OutputDirections(model, min(SAMPLES, runs), context, "quant: sensitivity", HINT)
    probe = Probe(differentiable(model, HINT))
    switches = [_mixed(probe, part) for part in parts]
    probe.model.graph.sort()
    at_rest: dict[str, Array] = {name: np.zeros((), np.float32) for name in switches}
    sums, directions = np.zeros(len(parts)), -(-runs // along.count)
    for found in along.gradients(probe.model, switches, directions, at_rest):
        sums += np.square([float(found[name]) if name in found else 0.0 for name in switches])
    return [float(each) for each in sums / directions]


def _mixed(probe: Probe, part: Part) -> str:
    """Mix a part with what it is rounded to, and return the name of the input that says how much of it."""
    switch = ir.Value(name=probe.editor.name("share"), type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()))
    probe.model.graph.inputs.append(switch)

    def mix(rounded: ir.Value, plain: ir.Value) -> ir.Value:
        return probe.add("Add", plain, probe.add("Mul", switch, probe.add("Sub", rounded, plain)))

    round_part(probe, part, mix)
    return switch.name or ""
