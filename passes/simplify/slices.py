"""Joins Slices that follow each other on different axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor
from onnxslim.model.nesting import main_graphs

INPUTS_SINCE = 10
"""From this opset on, starts and ends are inputs."""


def join_slices(model: ir.Model, known: Inference) -> int:
    """Let one Slice cut what two cut, where they cut different axes at places that are known.

    Several Slices may cut what one Slice makes, as quarters are made of halves: that one goes if all of them can do
    without it.

    Returns:
        How many went.
    """
    if model.opset_imports.get("", 0) < INPUTS_SINCE:
        return 0
    count, editor = 0, Editor(model)
    for graph in main_graphs(model):
        for node in list(graph):
            if node.op_type == "Slice" and not node.domain:
                count += _pass_on(editor, graph, node, known)
    return count


def _pass_on(editor: Editor, graph: ir.Graph, first: ir.Node, known: Inference) -> bool:
    """Let the Slices that cut what `first` makes cut what it reads; False where something else needs what it makes."""
    made, source = first.outputs[0], first.inputs[0]
    users = list(dict.fromkeys(use.node for use in made.uses()))
    if source is None or not users or made.is_graph_output():
        return False
    if not all(node.op_type == "Slice" and not node.domain and node.graph is graph for node in users):
        return False
    if any(use.idx for use in made.uses()):
        return False  # it says where to cut
    joined = [_joined(node, first, known) for node in users]
    if not all(joined):
        return False
    for node, settings in zip(users, joined, strict=True):
        values = [
            editor.initializer(f"{node.outputs[0].name}/{name}", array, graph)
            for name, array in zip(("starts", "ends", "axes", "steps"), settings or (), strict=True)
        ]
        node.resize_inputs(5)
        for place, value in enumerate([source, *values]):
            node.replace_input_with(place, value)
    graph.remove(first, safe=True)
    return True


def _joined(node: ir.Node, first: ir.Node, known: Inference) -> list[np.typing.NDArray[np.int64]] | None:
    """Return starts, ends, axes and steps of both Slices; None where they cut one axis, or are not known."""
    source = first.inputs[0]
    shape = known.fact(source).shape if source is not None else None
    outer, inner = _told(node), _told(first)
    if shape is None or outer is None or inner is None:
        return None
    axes = [int(axis) % len(shape) for axis in (*inner[2], *outer[2])]
    if len(set(axes)) < len(axes):
        return None
    joined = [np.concatenate([inner[place], outer[place]]).astype(np.int64) for place in range(4)]
    joined[2] = np.array(axes, np.int64)
    return joined


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
