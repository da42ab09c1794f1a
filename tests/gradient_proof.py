"""Proves the gradient of a node against central differences in float64, and that ONNX Runtime runs it in float32.

An op that has a kernel in float32 alone is proved against differences in float32, of fourth order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from op_draw import Array, Case
from op_proof import Batch, Runner

from onnxslim.autodiff.expand import expand
from onnxslim.autodiff.reverse import build_gradients, graph_builder

STEP = 1e-6
"""Of central differences in float64: what they leave out is some 1e-12, what is rounded some 1e-10."""
WIDE_STEP = 1e-2
"""Of differences of fourth order in float32: what they leave out is some 1e-8, what is rounded some 1e-5."""
DOUBLE = 1e-6
"""Relative error of directional derivatives in float64, where all kernels have it."""
SINGLE = 1e-3
"""Relative error of gradients in float32, against those in float64, or of their directional derivatives."""
DIRECTIONS = 3
FINE = np.float64(2.0**-30 + 2.0**-40)
"""What makes a number of float32 one that is none."""
STASHED = {"GroupNormalization", "RMSNormalization"}
"""Ops that compute in float32, whatever their operands are, unless they are told to."""


@dataclasses.dataclass(frozen=True)
class Differentiated:
    """A model of one node, and the same with the gradients of its real operands."""

    forward: onnx.ModelProto
    backward: onnx.ModelProto
    operands: tuple[str, ...]
    """Those that have a gradient."""
    results: tuple[str, ...]
    """Those whose gradients are given."""


def forward_model(case: Case, opset: int) -> onnx.ModelProto:
    """Return a model of one node, or of those that it stands for, if it is of an op that is replaced by others."""
    proto = Batch(opset, [case]).model(fixed=True)
    model = ir.from_proto(proto)
    return (
        ir.to_proto(model) if expand(model, [v for v in model.graph.inputs if v.dtype.is_floating_point()]) else proto
    )


def differentiated(case: Case, opset: int) -> Differentiated:
    """Build the gradients of all real operands that are not constant, given those of all real results."""
    forward = forward_model(case, opset)
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
    """Return a case whose real operands are float64, and no numbers of float32."""
    operands = [
        a if a is None or a.dtype != np.float32 else np.asarray(a * (1 + FINE), np.float64) for a in case.operands
    ]
    stash = {"stash_type": int(onnx.TensorProto.DOUBLE)} if case.op[1] in STASHED else {}
    return dataclasses.replace(case, operands=operands, attributes={**case.attributes, **stash})


def prove_gradient(case: Case, opset: int, random: np.random.Generator) -> int:
    """Prove the gradients of a node; return how many operands have one.

    Raises:
        AssertionError: A gradient is wrong, or has another shape than its operand.
    """
    wide = has_double(case, opset)
    proved = widened(case) if wide else case
    exact = differentiated(proved, opset)
    forward = Runner(exact.forward)
    feeds = Batch(opset, [proved]).feeds()
    given = {value.name: feeds[value.name] for value in exact.forward.graph.input}
    made = forward(given)
    kind = np.float64 if wide else np.float32
    seeds = {
        f"seed_{name}": np.asarray(random.standard_normal(made[name].shape), made[name].dtype) for name in exact.results
    }
    gradients = Runner(exact.backward)({**given, **seeds}) if exact.operands else {}

    def total(changed: dict[str, Array]) -> float:
        result = forward({**given, **changed})
        return float(sum((np.float64(result[name]) * seeds[f"seed_{name}"]).sum() for name in exact.results))

    for name, array in given.items():
        if array.dtype != kind:
            continue
        gradient = gradients.get(f"d_{name}", np.zeros_like(array))
        assert gradient.shape == array.shape, f"the gradient of {name} is {gradient.shape}, and that is {array.shape}"
        for _ in range(DIRECTIONS if array.size else 0):
            direction = np.asarray(random.standard_normal(array.shape), kind)
            expected = _difference(
                lambda at, n=name, a=array, d=direction: total({n: np.asarray(a + kind(at) * d)}), wide=wide
            )
            found = float((np.float64(gradient) * direction).sum())
            scale = max(float(np.abs(gradient * direction).sum()), abs(expected), 1.0)
            assert abs(expected - found) <= (DOUBLE if wide else SINGLE) * scale, f"{name}: {found} is not {expected}"
    if wide:
        _runs_in_float32(case, opset, seeds, {**made, **gradients})
    return len(exact.operands)


def has_double(case: Case, opset: int) -> bool:
    """Whether a node computes in float64 throughout; some kernels, and some of onnx's references, round on the way."""
    wide = widened(case)
    try:
        made = Runner(forward_model(wide, opset))(Batch(opset, [wide]).feeds())
    except Exception:  # onnxruntime has no narrower class
        return False
    if not _alike(made, Batch(opset, [case]).run()):
        return False  # the reference means something else than ONNX Runtime
    reals = [array for array in made.values() if array.dtype.kind == "f"]
    telling = [array[np.isfinite(array) & (array != np.round(array))] for array in reals]
    return all(a.dtype == np.float64 and (a != a.astype(np.float32)).sum() >= a.size / 2 for a in telling)


def _alike(left: dict[str, Array], right: dict[str, Array]) -> bool:
    """Whether two runtimes make nearly the same of a node."""
    close = {"rtol": SINGLE, "atol": SINGLE, "equal_nan": True}
    return all(
        a.shape == right[name].shape and (a.dtype.kind != "f" or np.allclose(a, right[name], **close))
        for name, a in left.items()
    )


def _difference(total: Callable[[float], float], *, wide: bool) -> float:
    """Return the slope of a function at 0."""
    if wide:
        return (total(STEP) - total(-STEP)) / (2 * STEP)
    near, far = (total(step) - total(-step) for step in (WIDE_STEP, 2 * WIDE_STEP))
    return (8 * near - far) / (12 * WIDE_STEP)


def _runs_in_float32(case: Case, opset: int, seeds: dict[str, Array], expected: dict[str, Array]) -> None:
    """Compare what a node makes, and its gradients, with what came out in float64."""
    single = differentiated(case, opset)
    given = {**Batch(opset, [case]).feeds(), **seeds}
    types = {value.name: value.type.tensor_type.elem_type for value in single.backward.graph.input}
    feeds = {n: np.asarray(given[n], onnx.helper.tensor_dtype_to_np_dtype(kind)) for n, kind in types.items()}
    forward = {value.name: feeds[value.name] for value in single.forward.graph.input}
    results = Runner(single.forward)(forward) | (Runner(single.backward)(feeds) if single.operands else {})
    for name, result in results.items():
        exact = np.asarray(expected[name], np.float64)
        scale = max(float(np.abs(exact).max(initial=0.0)), 1.0)
        worst = float(np.abs(np.asarray(result, np.float64) - exact).max(initial=0.0))
        assert worst <= SINGLE * scale, f"{name}: {worst / scale:.1e} off in float32"
