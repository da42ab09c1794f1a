"""Proves the gradient of a node against central differences in float64, and that ONNX Runtime runs it in float32."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
from op_draw import Array, Case
from op_proof import Batch, Runner

from onnxslim.autodiff.reverse import build_gradients, graph_builder

STEP = 1e-6
"""Of central differences in float64: what they leave out is some 1e-12, what is rounded some 1e-10."""
DOUBLE = 1e-6
"""Relative error of directional derivatives in float64, where all kernels have it."""
SINGLE = 1e-3
"""Relative error of gradients in float32, against those in float64."""
DIRECTIONS = 3


@dataclasses.dataclass(frozen=True)
class Differentiated:
    """A model of one node, and the same with the gradients of its real operands."""

    forward: onnx.ModelProto
    backward: onnx.ModelProto
    operands: tuple[str, ...]
    """Those that have a gradient."""
    results: tuple[str, ...]
    """Those whose gradients are given."""


def differentiated(case: Case, opset: int) -> Differentiated:
    """Build the gradients of all real operands that are not constant, given those of all real results."""
    batch = Batch(opset, [case])
    forward = batch.model(fixed=True)
    model = ir.from_proto(forward)
    for output in model.graph.outputs:
        output.shape = output.type = None
    build = graph_builder(model)
    results = [
        output for output in model.graph.outputs if output.dtype is not None and output.dtype.is_floating_point()
    ]
    seeds = {}
    for output in results:
        seed = ir.Value(name=f"seed_{output.name}", type=output.type, shape=output.shape)
        model.graph.inputs.append(seed)
        seeds[output] = seed
    operands = [
        value for value in model.graph.inputs if value.dtype.is_floating_point() and value not in seeds.values()
    ]
    found = build_gradients(build, seeds, operands)
    model.graph.outputs.clear()
    for value, gradient in found.items():
        result = build.op("Identity", gradient)
        result.name = f"d_{value.name}"
        model.graph.outputs.append(result)
    names = tuple(value.name or "" for value in found)
    return Differentiated(forward, ir.to_proto(model), names, tuple(output.name or "" for output in results))


def widened(case: Case) -> Case:
    """Return a case whose real operands are float64."""
    operands = [None if a is None else a.astype(np.float64) if a.dtype == np.float32 else a for a in case.operands]
    return dataclasses.replace(case, operands=operands)


def prove_gradient(case: Case, opset: int, random: np.random.Generator) -> int:
    """Prove the gradients of a node; return how many operands have one.

    Raises:
        AssertionError: A gradient is wrong, or has another shape than its operand.
    """
    wide = widened(case)
    exact = differentiated(wide, opset)
    forward, backward = Runner(exact.forward), Runner(exact.backward)
    feeds = Batch(opset, [wide]).feeds()
    given = {
        name: array for name, array in feeds.items() if name in {value.name for value in exact.forward.graph.input}
    }
    made = forward(given)
    seeds = {f"seed_{name}": np.asarray(random.standard_normal(made[name].shape)) for name in exact.results}
    gradients = backward({**given, **seeds}) if exact.operands else {}

    def total(changed: dict[str, Array]) -> float:
        result = forward({**given, **changed})
        return float(sum((result[name] * seeds[f"seed_{name}"]).sum() for name in exact.results))

    for name, array in given.items():
        if array.dtype != np.float64:
            continue
        gradient = gradients.get(f"d_{name}", np.zeros_like(array))
        assert gradient.shape == array.shape, f"the gradient of {name} is {gradient.shape}, and that is {array.shape}"
        for _ in range(DIRECTIONS if array.size else 0):
            direction = np.asarray(random.standard_normal(array.shape))
            there, back = (total({name: np.asarray(array + sign * STEP * direction)}) for sign in (1, -1))
            expected, found = (there - back) / (2 * STEP), float((gradient * direction).sum())
            scale = max(float(np.abs(gradient * direction).sum()), abs(expected), 1.0)
            assert abs(expected - found) <= DOUBLE * scale, f"{name}: {found} is not {expected}"
    _runs_in_float32(case, opset, seeds, gradients)
    return len(exact.operands)


def _runs_in_float32(case: Case, opset: int, seeds: dict[str, Array], gradients: dict[str, Array]) -> None:
    if not gradients:
        return
    single = differentiated(case, opset)
    wanted = {value.name for value in single.backward.graph.input}
    feeds = {**Batch(opset, [case]).feeds(), **{name: np.asarray(seed, np.float32) for name, seed in seeds.items()}}
    results = Runner(single.backward)({name: array for name, array in feeds.items() if name in wanted})
    for name, result in results.items():
        scale = max(float(np.abs(gradients[name]).max(initial=0.0)), 1.0)
        worst = float(np.abs(result - gradients[name]).max(initial=0.0))
        assert worst <= SINGLE * scale, f"{name}: {worst / scale:.1e} off in float32"
