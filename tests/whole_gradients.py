"""Differentiates whole models, and proves the gradient of all their weights at once by how the result changes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.autodiff.expand import expand
from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.ops.traits import Trait, has
from onnxslim.ort import onnxruntime
from onnxslim.pipeline.opset import upgraded

Array = np.ndarray[Any, np.dtype[Any]]
OLDEST = 18
"""Gradients are declared from this operator set on."""
MASKED = 1e6
"""Beyond, a number is no weight: it hides places from a Softmax."""
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""How far each weight is moved, of its norm: less is rounded away, more is no straight line."""

NUDGE = 1e-2
"""The spread of what weights that are zero are moved to."""


@dataclasses.dataclass(frozen=True)
class WholeGradient:
    """A model with the gradients of its weights, which are inputs that may be left out."""

    forward: ir.Model
    backward: ir.Model
    weights: tuple[str, ...]
    """The weights on which results hang."""
    left: tuple[str, ...]
    """Weights that have no part in any result that is differentiated."""
    replaced: int
    """Nodes that were replaced by others before."""


def differentiate(model: ir.Model, feeds: Mapping[str, Array]) -> WholeGradient:
    """Differentiate a model, on inputs of the shapes of `feeds`, by all its weights of real numbers.

    Raises:
        NotDifferentiable: An op between has no gradient.
    """
    if model.opset_imports.get("", OLDEST) < OLDEST:
        raised = upgraded(model, OLDEST)
        assert isinstance(raised, ir.Model), raised
        model = raised
    forward = specialize_shapes(model, {name: array.shape for name, array in feeds.items()})
    for value in list(forward.graph.initializers.values()):
        tensor = value.const_value
        if value.dtype is not ir.DataType.FLOAT or tensor is None or tensor.size < 2:
            continue
        sizes = any(has(node, Trait.RESCALES) for node, _ in value.uses())
        if np.abs(tensor.numpy()).max() < MASKED and not sizes:
            forward.graph.inputs.append(value)
    names = {value.name for value in forward.graph.initializers.values() if value.is_graph_input()}
    replaced = expand(forward, [value for value in forward.graph.inputs if value.name in names])
    backward = forward.clone()
    weights = [value for value in backward.graph.inputs if value.name in names]
    build = graph_builder(backward)
    seeds = {}
    for output in backward.graph.outputs:
        if output.dtype is ir.DataType.FLOAT:
            seeds[output] = ir.Value(name=f"seed_{output.name}", type=output.type, shape=output.shape)
            backward.graph.inputs.append(seeds[output])
    found = build_gradients(build, seeds, weights)
    backward.graph.outputs.clear()
    for value, gradient in found.items():
        result = build.op("Identity", gradient)
        result.name = f"d_{value.name}"
        backward.graph.outputs.append(result)
    known = tuple(value.name or "" for value in found)
    return WholeGradient(forward, backward, known, tuple(sorted(names - set(known))), replaced)


def directional_error(whole: WholeGradient, feeds: Mapping[str, Array], seed: int = 0) -> float:
    """Return the relative error of the slope of the results where each weight is moved along its gradient.

    Each moves by the same share of its norm, so that all take part.
    Results are weighted at random. Weights that are zero are moved a little: a Relu of nothing but zeros is at its
    kink. Where the slope is curved, or has other kinks, of several steps the best counts.
    """
    random = np.random.default_rng(seed)
    forward, backward = _session(whole.forward), _session(whole.backward)
    given = {value.name: feeds[value.name] for value in forward.get_inputs() if value.name in feeds}
    tensors = {name: whole.forward.graph.initializers[name].const_value for name in whole.weights}
    weights = {name: tensor.numpy() for name, tensor in tensors.items() if tensor is not None}
    for name, weight in weights.items():
        if not weight.any():
            weights[name] = random.normal(scale=NUDGE, size=weight.shape).astype(np.float32)
    given |= weights
    names = [output.name for output in forward.get_outputs()]
    made = dict(zip(names, forward.run(None, given), strict=True))
    wanted = {value.name for value in backward.get_inputs()}
    seeds = {
        name: random.standard_normal(array.shape).astype(np.float32)
        for name, array in made.items()
        if f"seed_{name}" in wanted
    }
    gradients = backward.run(None, {**given, **{f"seed_{name}": array for name, array in seeds.items()}})
    directions, expected = {}, 0.0
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        length, size = (float(np.linalg.norm(np.float64(array))) for array in (gradient, weight))
        directions[name] = gradient * np.float64(size / length if length else 0.0)
        expected += length * size

    def total(step: float) -> float:
        moved = {name: (weight + step * directions[name]).astype(np.float32) for name, weight in weights.items()}
        results = dict(zip(names, forward.run(None, {**given, **moved}), strict=True))
        return float(sum((np.float64(results[name]) * array).sum() for name, array in seeds.items()))

    slopes = [(total(step) - total(-step)) / (2 * step) for step in STEPS]
    return min(abs(slope - expected) for slope in slopes) / expected if expected else math.nan


def _session(model: ir.Model) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
