"""Runs a few nodes on arrays, to know what they make.

ONNX Runtime runs them with its optimisations off, so that a value is the one that inference would have seen; where it
has no kernel (an old opset, a rare element type) the reference implementation of onnx takes over.

Opening a session costs far more than running a few nodes in it. A program says nothing of the sizes of what it is fed,
so that one session serves every site of a rule; the sessions used last are kept.
"""

from __future__ import annotations

import enum
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxslim.arrays import Array
from onnxslim.model.constants import as_tensor, constant
from onnxslim.ops.traits import Trait, has
from onnxslim.ort import onnxruntime

KEPT_SESSIONS = 256
KEPT_BYTES = 1 << 14
"""Larger programs (they hold tensors that cannot be fed) are opened, run and closed."""

NO_KERNEL = "NOT_IMPLEMENTED"
"""In ONNX Runtime's messages, where a program is right and it has no kernel for one of the ops."""


class Refusal(enum.Enum):
    """Why there is no session."""

    NO_KERNEL = enum.auto()
    """The reference implementation may have one."""
    NO_PROGRAM = enum.auto()
    """An attribute, a type or a shape is wrong; the reference implementation does not always notice, and can hang."""


def evaluate(
    nodes: Sequence[onnx.NodeProto],
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
    opsets: Mapping[str, int],
    *,
    reference: bool = True,
) -> list[Array] | None:
    """Run `nodes`, which are topologically sorted, on `feeds`.

    Args:
        nodes: What to run.
        feeds: Arrays for the names that no node makes.
        outputs: The names that are wanted.
        opsets: The version of each domain.
        reference: Try the reference implementation where ONNX Runtime fails.

    Returns:
        One array for each name in `outputs`; None where neither ONNX Runtime nor the reference implementation can run
        these nodes, or where a result is no tensor.
    """
    if _may_end_the_process(nodes, feeds):
        return None
    model = _program(nodes, feeds, outputs, opsets)
    fed = {value.name: np.asarray(feeds[value.name]) for value in model.graph.input}
    program = model.SerializeToString()
    session = _session(program) if len(program) <= KEPT_BYTES else _open(program)
    # The reference is not asked where ONNX Runtime refuses the values: it may take them, or hang.
    try:
        if isinstance(session, onnxruntime.InferenceSession):
            results: list[Any] = session.run(list(outputs), fed)
        elif session is Refusal.NO_KERNEL and reference:
            results = _refer(model, list(outputs), fed)
        else:
            return None
    except Exception:  # an index out of range, sizes that do not fit: neither has a narrower class to catch
        return None
    if not all(isinstance(result, (np.ndarray, np.generic)) for result in results):
        return None
    return [np.asarray(result) for result in results]


def evaluate_nodes(
    nodes: Sequence[ir.Node], feeds: Mapping[ir.Value, Array], wanted: Sequence[ir.Value], opsets: Mapping[str, int]
) -> list[Array] | None:
    """Run nodes of a graph, which are topologically sorted, on arrays for the values that none of them makes; values
    go by numbers, so that sites which are alike share a session. Returns what `evaluate` does."""
    labels = {value: f"v{index}" for index, value in enumerate(feeds)}
    protos = []
    for node in nodes:
        for output in node.outputs:
            labels[output] = f"v{len(labels)}"
        proto = ir.to_proto(node)
        proto.input[:] = [labels[value] if value is not None else "" for value in node.inputs]
        proto.output[:] = ["" if value.name == "" and value not in wanted else labels[value] for value in node.outputs]
        protos.append(proto)
    fed = {labels[value]: array for value, array in feeds.items()}
    return evaluate(protos, fed, [labels[value] for value in wanted], opsets)


def _refer(model: onnx.ModelProto, outputs: list[str], feeds: Mapping[str, Array]) -> list[Any]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return list(ReferenceEvaluator(model).run(outputs, dict(feeds)))


def _open(program: bytes) -> onnxruntime.InferenceSession | Refusal:
    """Open a session, or say why there is none."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # what is kept must not keep memory, too
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes have no common base
        return Refusal.NO_KERNEL if NO_KERNEL in str(error) else Refusal.NO_PROGRAM


_session = functools.lru_cache(maxsize=KEPT_SESSIONS)(_open)


def divides_safely(node: ir.Node) -> bool:
    """Whether `node` is no division, or one of floats, or by integers that are known to be harmless."""
    if not has(node, Trait.INTEGER_DIVISION):
        return True
    if any(value is not None and value.dtype is not None and not value.dtype.is_integer() for value in node.inputs):
        return True
    divisor = constant(node.inputs[1]) if len(node.inputs) == 2 else None
    return divisor is not None and is_harmless(divisor, constant(node.inputs[0]))


def is_harmless(divisor: Array, dividend: Array | None) -> bool:
    """Whether all of `dividend` (None: not known) may be divided by `divisor`, and the process lives on."""
    if divisor.dtype.kind not in "iu":
        return True
    if not np.all(divisor):
        return False
    if divisor.dtype.kind == "u" or not np.any(divisor == -1):
        return True
    return dividend is not None and dividend.dtype.kind == "i" and not np.any(dividend == np.iinfo(dividend.dtype).min)


def _may_end_the_process(nodes: Sequence[onnx.NodeProto], feeds: Mapping[str, Array]) -> bool:
    """Whether integers might be divided in a way that nothing can catch. A computed divisor is not trusted."""
    integers = any(array.dtype.kind in "iu" for array in feeds.values())
    for node in nodes:
        if not has(node, Trait.INTEGER_DIVISION):
            continue
        dividend, divisor = feeds.get(node.input[0]), feeds.get(node.input[1])
        if divisor is not None:
            if not is_harmless(divisor, dividend):
                return True
        elif integers and (dividend is None or dividend.dtype.kind in "iu"):
            return True
    return False


def _program(
    nodes: Sequence[onnx.NodeProto], feeds: Mapping[str, Array], outputs: Sequence[str], opsets: Mapping[str, int]
) -> onnx.ModelProto:
    inputs, initializers = [], []
    for name, array in feeds.items():
        kind = ir.DataType.from_numpy(array.dtype) if array.dtype.kind not in "OSU" else ir.DataType.STRING
        if array.dtype.kind in "fiubO" and array.dtype.type.__module__ == "numpy":
            inputs.append(onnx.helper.make_tensor_value_info(name, int(kind), None))
        else:  # numpy's own types are fed; the others (bfloat16, int4, ...) travel as initializers
            initializers.append(ir.serde.serialize_tensor(as_tensor(array, name)))
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, "fold", inputs, [onnx.helper.make_empty_tensor_value_info(n) for n in outputs], initializers
        ),
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=10,
    )
