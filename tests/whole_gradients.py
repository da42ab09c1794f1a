"""Differentiates whole models, and proves the gradient of all their weights at once by how the result changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.autodiff.expand import expand
from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.ort import onnxruntime
from onnxslim.pipeline.opset import upgraded

Array = np.ndarray[Any, np.dtype[Any]]
OLDEST = 18
"""Gradients are declared from this operator set on."""
STEPS = (1e-3, 1e-4, 1e-5, 1e-6)
"""How far all weights are moved, of their norm: less is rounded away, more is no straight line."""


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
        if value.dtype is ir.DataType.FLOAT and value.const_value is not None and value.const_value.size > 1:
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
    """Return how far the slope of the results along the gradient is from its square, relative to that.

    Results are weighted at random. Where the slope is curved, or has kinks, of several steps the best counts.
    """
    random = np.random.default_rng(seed)
    forward, backward = _session(whole.forward), _session(whole.backward)
    given = {value.name: feeds[value.name] for value in forward.get_inputs() if value.name in feeds}
    names = [output.name for output in forward.get_outputs()]
    made = dict(zip(names, forward.run(None, given), strict=True))
    wanted = {value.name for value in backward.get_inputs()}
    seeds = {
        name: random.standard_normal(array.shape).astype(np.float32)
        for name, array in made.items()
        if f"seed_{name}" in wanted
    }
    gradients = backward.run(None, {**given, **{f"seed_{name}": array for name, array in seeds.items()}})
    tensors = [whole.forward.graph.initializers[name].const_value for name in whole.weights]
    weights = [tensor.numpy() for tensor in tensors if tensor is not None]
    length = float(np.sqrt(sum((np.float64(gradient) ** 2).sum() for gradient in gradients)))
    size = float(np.sqrt(sum((np.float64(weight) ** 2).sum() for weight in weights)))
    if not length:
        return float("nan")

    def total(step: float) -> float:
        moved = {
            name: (weight + np.float64(step / length) * gradient).astype(np.float32)
            for name, weight, gradient in zip(whole.weights, weights, gradients, strict=True)
        }
        results = dict(zip(names, forward.run(None, {**given, **moved}), strict=True))
        return float(sum((np.float64(results[name]) * array).sum() for name, array in seeds.items()))

    slopes = [(total(step * size) - total(-step * size)) / (2 * step * size) for step in STEPS]
    return min(abs(slope - length) for slope in slopes) / length


def _session(model: ir.Model) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
