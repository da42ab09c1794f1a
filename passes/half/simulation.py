"""Runs a model in half precision as a device does that has kernels for it: every value is rounded, and overflows.

ONNX Runtime's CPU provider computes in float32 and leaves out casts that it added itself, so that it shows neither.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import Samples
from onnxslim.errors import RunError
from onnxslim.model.constants import as_tensor
from onnxslim.model.edit import Editor
from onnxslim.observe.deviation import Deviation
from onnxslim.pipeline.reasons import Reason
from onnxslim.runtime.session import OpenSession

from .codes import HalfCode
from .formats import FORMATS
from .table import load_op_facts

HALVES = frozenset(half.onnx_type for half in FORMATS.values())
LEAST_DB = 20.0
"""With less of an output left, half precision has broken it: the noise is a tenth of the signal."""


def rounded(model: ir.Model) -> ir.Model:
    """Return a model in half precision as one in float32, with casts to half precision and back behind each node of
    the main graph that makes such values. Sums inside of nodes are float32, as they are on GPUs.

    Inputs become float32, too. `model` is not changed.
    """
    result = model.clone()
    infer_shapes(result)
    graph, editor = result.graph, Editor(result)
    for value in graph.initializers.values():
        if value.dtype in HALVES and value.const_value is not None:
            value.const_value = as_tensor(value.const_value.numpy().astype(np.float32), value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for value in graph.inputs:
        if value.dtype in HALVES:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        _make_float32(node)
        for value in node.outputs:
            if value.dtype in HALVES:
                _round(value, graph, editor)
    return result


def _make_float32(node: ir.Node) -> None:
    """Let an attribute that says a type of half precision say float32."""
    for name in set(load_op_facts().result_type.values()) & node.attributes.keys():
        attribute = node.attributes[name]
        if attribute.type is ir.AttributeType.INT and ir.DataType(attribute.as_int()) in HALVES:
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)
        elif attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALVES:
            node.attributes[name] = ir.AttrTensor(name, as_tensor(attribute.as_tensor().numpy().astype(np.float32)))


def _round(value: ir.Value, graph: ir.Graph, editor: Editor) -> None:
    """Let all readers of a value, and the outputs of the model, have it rounded to its type."""
    maker, dtype, uses = value.producer(), value.dtype, list(value.uses())
    assert maker is not None, "a node makes it"
    assert dtype is not None, "its type is known"
    down = ir.node("Cast", [value], {"to": dtype.value})
    up = ir.node("Cast", [down.outputs[0]], {"to": ir.DataType.FLOAT.value})
    back = up.outputs[0]
    down.outputs[0].name, back.name = editor.numbered("rounded_"), editor.numbered("rounded_")
    down.outputs[0].type, back.type = ir.TensorType(dtype), ir.TensorType(ir.DataType.FLOAT)
    value.type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_after(maker, [down, up])
    for use in uses:
        use.node.replace_input_with(use.idx, back)
    if value.is_graph_output():
        name, value.name = value.name, editor.numbered("unrounded_")
        back.name = name
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = back


def simulated(
    before: ir.Model, after: ir.Model, samples: Samples, open_session: OpenSession, *, rounds: bool
) -> float | Reason | None:
    """Return how much of the worst output is left in decibels, None where none differs, or why it does not do.

    Args:
        before: The model in float32.
        after: The same in half precision.
        samples: Run one by one.
        open_session: Opens a model on the target.
        rounds: The target computes in half precision by itself; False: it is simulated.
    """
    try:
        sessions = open_session(before), open_session(after if rounds else rounded(after))
        found: dict[str, Deviation] = {}
        for batch in samples.batches():
            reference, given = (session.run(batch.feeds) for session in sessions)
            for name, array in reference.items():
                if getattr(array, "dtype", None) == np.float32 and np.isfinite(array).all():
                    found.setdefault(name, Deviation()).add(array, given[name])
    except RunError as error:
        return Reason(HalfCode.DOES_NOT_RUN, (error.what,))
    worst: float | None = None
    for name, deviation in found.items():
        if deviation.reason is not None:
            return Reason(HalfCode.BROKEN, (name, deviation.reason), (name,))
        left = deviation.sqnr_db
        if left is not None and left < LEAST_DB:
            return Reason(HalfCode.BROKEN, (name, f"{left:.1f} dB of it are left"), (name,))
        worst = left if worst is None else min(worst, left or worst)
    return worst
