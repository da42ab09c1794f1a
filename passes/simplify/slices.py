"""Joins Slices that follow each other on different axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.graph.constants import constant, fresh_name, new_initializer
from onnxslim.graph.inference.walk import Inference
from onnxslim.nesting import main_graphs

INPUTS_SINCE = 10
"""From this opset on, starts and ends are inputs."""


def join_slices(model: ir.Model, known: Inference) -> int:
    """Let one Slice cut what two cut, where they cut different axes at places that are known. Returns how many went."""
    if model.opset_imports.get("", 0) < INPUTS_SINCE:
        return 0
    count = 0
    for graph in main_graphs(model):
        for node in list(graph):
            if node.op_type == "Slice" and not node.domain and node.inputs[0] is not None:
                first = node.inputs[0].producer()
                if first is not None and _joins(node, first):
                    count += _join(graph, node, first, known)
    return count


def _joins(node: ir.Node, first: ir.Node) -> bool:
    if first.op_type != "Slice" or first.domain or first.graph is not node.graph:
        return False
    return len(first.outputs[0].uses()) == 1 and not first.outputs[0].is_graph_output()


def _join(graph: ir.Graph, node: ir.Node, first: ir.Node, known: Inference) -> bool:
    source = first.inputs[0]
    shape = known.fact(source).shape if source is not None else None
    outer, inner = _told(node), _told(first)
    if shape is None or outer is None or inner is None:
        return False
    axes = [int(axis) % len(shape) for axis in (*inner[2], *outer[2])]
    if len(set(axes)) < len(axes):
        return False
    joined = [np.concatenate([inner[place], outer[place]]) for place in range(4)]
    joined[2] = np.array(axes, np.int64)
    values = [
        new_initializer(graph, fresh_name(graph, f"{node.outputs[0].name}/{name}"), array.astype(np.int64))
        for name, array in zip(("starts", "ends", "axes", "steps"), joined, strict=True)
    ]
    node.resize_inputs(5)
    for place, value in enumerate([source, *values]):
        node.replace_input_with(place, value)
    graph.remove(first, safe=True)
    return True


def _told(node: ir.Node) -> list[np.typing.NDArray[np.int64]] | None:
    """Return starts, ends, axes and steps of a Slice; None where they are computed when the model runs."""
    arrays = [constant(value) for value in node.inputs[1:]]
    if len(arrays) < 2 or any(a is None and v is not None for a, v in zip(arrays, node.inputs[1:], strict=True)):
        return None
    starts, ends = arrays[0], arrays[1]
    if starts is None or ends is None:
        return None
    axes = arrays[2] if len(arrays) > 2 and arrays[2] is not None else np.arange(len(starts))
    steps = arrays[3] if len(arrays) > 3 and arrays[3] is not None else np.ones(len(starts), np.int64)
    return [starts, ends, axes, steps]
