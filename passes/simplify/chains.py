"""Joins chains that are too general for a rule: axes that are renamed twice, concatenations of concatenations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.edit import Editor, take_over
from onnxslim.model.nesting import every_graph, main_graphs

from .shapes import reshape_target

RENAMING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
"""Ops that keep the elements and their order, and only say anew what shape they have."""


def join_reshapes(model: ir.Model, known: Inference) -> int:
    """Let one Reshape stand for two ops that rename axes, where it can be told the shape of the result.

    Rules do the same where only the second is a Reshape to a known shape. Returns how many were joined.
    """
    count, editor = 0, Editor(model)
    for graph in main_graphs(model):
        for node in list(graph):
            if node.domain or node.op_type not in RENAMING:
                continue
            first = _only_maker(node, 0)
            if first is None or first.domain or first.op_type not in RENAMING or first.graph is not graph:
                continue
            source, shape = first.inputs[0], known.fact(node.outputs[0]).shape
            if source is None or shape is None:
                continue
            sizes = reshape_target(known.fact(source).shape, shape)
            if sizes is not None:
                _replace(editor, graph, node, first, sizes)
                count += 1
    return count


def _only_maker(node: ir.Node, place: int) -> ir.Node | None:
    """Return what makes an input of a node, if it is made for nobody else."""
    value = node.inputs[place] if len(node.inputs) > place else None
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return value.producer()


def _replace(editor: Editor, graph: ir.Graph, node: ir.Node, first: ir.Node, sizes: list[int]) -> None:
    old = node.outputs[0]
    shape = editor.initializer(f"{old.name}/shape", np.array(sizes, np.int64), graph)
    joined = ir.Node("", "Reshape", [first.inputs[0], shape], name=node.name)
    graph.insert_before(node, joined)
    take_over(joined.outputs[0], old)
    graph.remove([node, first], safe=True)


def join_concatenations(model: ir.Model) -> int:
    """Let a Concat read what another Concat along the same axis reads for it alone. Returns how many were joined."""
    count = 0
    for graph in every_graph(model):
        for node in list(graph):
            inner = [maker for place in range(len(node.inputs)) if (maker := _inner_concat(node, place)) is not None]
            if not inner or node.graph is None:
                continue
            made = {maker.outputs[0]: maker for maker in inner}
            inputs = [v for value in node.inputs for v in (made[value].inputs if value in made else (value,))]
            node.resize_inputs(len(inputs))
            for place, value in enumerate(inputs):
                node.replace_input_with(place, value)
            graph.remove(inner, safe=True)
            count += len(inner)
    return count


def _inner_concat(node: ir.Node, place: int) -> ir.Node | None:
    maker = _only_maker(node, place)
    if node.op_type != "Concat" or node.domain or maker is None or maker.op_type != "Concat" or maker.domain:
        return None
    outer, inner = node.attributes.get("axis"), maker.attributes.get("axis")
    if maker.graph is not node.graph or outer is None or inner is None or outer.is_ref() or inner.is_ref():
        return None
    return maker if outer.as_int() == inner.as_int() else None
