"""Runs a few nodes on arrays, to know what they make.

ONNX Runtime runs them with its optimisations off, so that a value is the one that inference would have seen; where it
has no kernel (an old opset, a rare element type) the reference implementation of onnx takes over.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from onnxslim.graph.constants import as_tensor

DIVISIONS = frozenset({"Div", "Mod"})
"""Ops that end the process (SIGFPE, older versions of ONNX Runtime) where an integer is divided by zero."""

Array = npt.NDArray[Any]


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
    if _may_divide_by_zero(nodes, feeds):
        return None
    model = _program(nodes, feeds, outputs, opsets)
    fed = {value.name: np.asarray(feeds[value.name]) for value in model.graph.input}
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), _options(), providers=["CPUExecutionProvider"]
        )
        results = session.run(list(outputs), fed)
    except Exception:  # no kernel, or no program at all: onnxruntime has no narrower class to catch
        if not reference:
            return None
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                results = ReferenceEvaluator(model).run(list(outputs), fed)
        except Exception:  # the reference raises whatever numpy raises
            return None
    if not all(isinstance(result, (np.ndarray, np.generic)) for result in results):
        return None
    return [np.asarray(result) for result in results]


def _may_divide_by_zero(nodes: Sequence[onnx.NodeProto], feeds: Mapping[str, Array]) -> bool:
    """Whether integers might be divided by zero, which nothing can catch. A computed divisor is not trusted."""
    integers = any(array.dtype.kind in "iu" for array in feeds.values())
    for node in nodes:
        if node.domain or node.op_type not in DIVISIONS:
            continue
        divisor = feeds.get(node.input[1])
        if integers if divisor is None else divisor.dtype.kind in "iu" and not np.all(divisor):
            return True
    return False


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _program(
    nodes: Sequence[onnx.NodeProto], feeds: Mapping[str, Array], outputs: Sequence[str], opsets: Mapping[str, int]
) -> onnx.ModelProto:
    inputs, initializers = [], []
    for name, array in feeds.items():
        kind = ir.DataType.from_numpy(array.dtype) if array.dtype.kind not in "OSU" else ir.DataType.STRING
        if array.dtype.kind in "fiubO" and array.dtype.isbuiltin:
            inputs.append(onnx.helper.make_tensor_value_info(name, int(kind), array.shape))
        else:  # numpy's own types are fed; the others (bfloat16, int4, ...) travel as initializers
            initializers.append(ir.serde.serialize_tensor(as_tensor(array, name)))
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, "fold", inputs, [onnx.helper.make_empty_tensor_value_info(n) for n in outputs], initializers
        ),
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=10,
    )
