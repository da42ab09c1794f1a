"""Estimates the error that rounding brings, part by part, from gradients: for all parts at once, to first order.

A part mixed as `x + s (rounded(x) - x)` is itself at s = 0. With outputs y scaled to an energy of 1 and a random
direction u whose elements are independent, of mean 0 and variance 1, the derivative of u.y by s has as its mean square
the energy of J (rounded(x) - x), where J is the Jacobian of the outputs by that part: Hutchinson's estimate of the
trace with the Gauss-Newton matrix in the place of the Hessian. A run forward and back gives it for every part, where a
measurement takes a run for each of them.

Sources: M. F. Hutchinson, Communications in Statistics 19 (1990); Z. Dong and others, HAWQ-V2, NeurIPS 2020, which
takes the trace and the size of the rounding error for independent of each other; here the two stand together.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.arrays import Array
from onnxslim.autodiff.expand import expand
from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.errors import NotDifferentiable
from onnxslim.observe.probe import Feeds, Probe, run_on
from onnxslim.observe.sensitivity import output_weights
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.opset import at_least
from onnxslim.pipeline.reasons import Reason
from onnxslim.train.step import TRAINING_OPSET

from .rounded import Part, round_part

HINT = "quantize it with measured errors"
PRODUCTS = 2e12
"""Multiply-accumulates that all runs together may take: about a minute on two cores."""
RUNS = (8, 128)
"""Runs at least and at most. The standard error of an estimate is the square root of 2 / runs, at most."""
SAMPLES = 32
"""Samples at most; each is run along several directions."""
BACKWARD = 3
"""Work of a run forward and back, beside that of one forward."""


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
    runs = int(min(most, max(least, PRODUCTS / (BACKWARD * max(macs, 1)))))
    feeds = _of_one_shape(context, min(SAMPLES, runs))
    session = context.open_session(model)
    made = [run_on(session, each) for each in feeds]
    weights = output_weights(made)
    if not weights:
        raise NotDifferentiable("the model has no output of real numbers", hint=HINT)
    step = _compiled(model, parts, {name: array.shape for name, array in feeds[0].items()}, list(weights))
    running = context.open_session(step.model)
    generator = np.random.default_rng(context.seed)
    sums, directions = np.zeros(len(parts)), -(-runs // len(feeds))
    at_rest: dict[str, Array] = {name: np.zeros((), np.float32) for name in step.switches}
    for done, (given, outputs) in enumerate(zip(feeds, made, strict=True), 1):
        for _ in range(directions):
            drawn = {
                seed: (np.sqrt(weights[name]) * generator.choice((-1.0, 1.0), np.shape(outputs[name]))).astype(dtype)
                for name, (seed, dtype) in step.seeds.items()
            }
            found = run_on(running, {**given, **at_rest, **drawn})
            sums += np.square([float(found[name]) if name in found else 0.0 for name in step.derivatives])
        context.progress("quant: sensitivity", done, len(feeds))
    return [float(each) for each in sums / directions]


@dataclasses.dataclass(frozen=True)
class _NoiseStep:
    """A model that makes the derivatives of the outputs along a direction by what each part is mixed with."""

    model: ir.Model
    switches: tuple[str, ...]
    """Inputs: for each part the share of what is rounded."""
    seeds: Mapping[str, tuple[str, np.dtype[np.generic]]]
    """For each output the input that holds the direction, and its type."""
    derivatives: tuple[str, ...]
    """For each part an output; none depends on a part of which the output is missing."""


def _of_one_shape(context: Context, count: int) -> list[Feeds]:
    """Return inputs of single samples, all of the commonest shape."""
    drawn = context.draw(count, "quant: sensitivity")
    feeds = [batch.feeds for batch in drawn.one_by_one().batches()]
    forms = [tuple((name, array.shape) for name, array in each.items()) for each in feeds]
    (usual, _), *_ = Counter(forms).most_common(1)
    return [each for each, form in zip(feeds, forms, strict=True) if form == usual]


def _compiled(
    model: ir.Model, parts: Sequence[Part], shapes: Mapping[str, Sequence[int]], outputs: Sequence[str]
) -> _NoiseStep:
    raised = at_least(model, TRAINING_OPSET)
    if isinstance(raised, Reason):
        raise NotDifferentiable(str(raised), hint=HINT)
    probe = Probe(raised)
    switches = tuple(_mixed(probe, part) for part in parts)
    probe.model.graph.sort()
    whole = specialize_shapes(probe.model, shapes, fold=False)
    graph = whole.graph
    expand(whole, [value for value in graph.inputs if value.name in switches])
    build = graph_builder(whole)
    by_name = {value.name: value for value in graph.inputs if value.name in switches}
    seeds: dict[ir.Value, ir.Value] = {}
    for index, output in enumerate(graph.outputs):
        if output.name in outputs and output.dtype is not None:
            name = f"direction of output {index}"
            seeds[output] = ir.Value(name=name, type=ir.TensorType(output.dtype), shape=output.shape)
    gradients = build_gradients(build, seeds, list(by_name.values()))
    if not gradients:
        raise NotDifferentiable("no output depends on what is rounded", hint=HINT)
    graph.inputs.extend(seeds.values())
    graph.outputs.clear()
    graph.outputs.extend(gradients.values())
    onnx_ir.passes.common.RemoveUnusedNodesPass()(whole)
    names = {value.name: gradient.name or "" for value, gradient in gradients.items()}
    told = {
        output.name or "": (seed.name or "", (seed.dtype or ir.DataType.FLOAT).numpy())
        for output, seed in seeds.items()
    }
    return _NoiseStep(whole, switches, told, tuple(names.get(name, "") for name in switches))


def _mixed(probe: Probe, part: Part) -> str:
    """Mix a part with what it is rounded to, and return the name of the input that says how much of it."""
    switch = ir.Value(name=probe.editor.name("share"), type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()))
    probe.model.graph.inputs.append(switch)

    def mix(rounded: ir.Value, plain: ir.Value) -> ir.Value:
        return probe.add("Add", plain, probe.add("Mul", switch, probe.add("Sub", rounded, plain)))

    round_part(probe, part, mix)
    return switch.name or ""
