"""Joins Slices that follow each other on different axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.edit import Editor, set_inputs
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.families.indexing import known_slices
from onnxslim.ops.relations import NodeAxes
from onnxslim.ops.traits import Trait, has, having

INPUTS_SINCE = 10
"""From this opset on, starts and ends are inputs."""

Cuts = dict[int, tuple[int, int, int]]
"""Axis -> start, end and step."""


def join_slices(model: ir.Model, known: Inference) -> int:
    """Let one Slice cut what two cut, where they cut different axes at places that are known.

    Several Slices may cut the result of one Slice, as quarters are cut from halves: that one goes if all of them can do
    without it.

    Returns:
        How many went.
    """
    if model.opset_imports.get("", 0) < INPUTS_SINCE:
        return 0
    editor = Editor(model)
    return sum(_join(editor, node, known) for node in having(main_graphs(model), Trait.SLICES))


def _join(editor: Editor, first: ir.Node, known: Inference) -> bool:
    """Let the Slices behind `first` read its input; False where something else needs its result."""
    graph, result, source = first.graph, first.outputs[0], first.inputs[0]
    users = list(dict.fromkeys(use.node for use in result.uses()))
    if graph is None or source is None or not users or result.is_graph_output():
        return False
    if not all(has(node, Trait.SLICES) and node.graph is graph for node in users):
        return False
    if any(use.idx for use in result.uses()):
        return False  # it says where to cut
    shape = known.fact(source).shape
    joined = [_joined(first, node, len(shape)) if shape is not None else None for node in users]
    if not all(joined):
        return False
    for node, cuts in zip(users, joined, strict=True):
        assert cuts is not None
        columns = np.array([(start, end, axis, step) for axis, (start, end, step) in cuts.items()], np.int64).T
        settings = [
            editor.initializer(f"{node.outputs[0].name}/{name}", np.ascontiguousarray(column), graph)
            for name, column in zip(("starts", "ends", "axes", "steps"), columns, strict=True)
        ]
        set_inputs(node, [source, *settings])
    graph.remove(first, safe=True)
    return True


def _joined(first: ir.Node, second: ir.Node, rank: int) -> Cuts | None:
    """Return the cuts of both Slices; None where they cut one axis, or are computed when the model runs."""
    inner, outer = known_slices(NodeAxes(first), rank), known_slices(NodeAxes(second), rank)
    if inner is None or outer is None or inner.keys() & outer.keys():
        return None
    return {**inner, **outer}
