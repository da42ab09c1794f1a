"""Puts nothing together that was only taken apart, and takes nothing apart that was only put together.

a, b = Split (x)  y = Concat (a, b)    ->    y = x
x = Concat (a, b)  c, d = Split (x)    ->    c = a, d = b, where the borders are the same
"""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, take_over
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.symbols import Size


def join_pieces(model: ir.Model, known: Inference) -> int:
    """Pass by each Concat of all that a Split makes, and each Split of a Concat at its borders. Returns how many."""
    count, editor = 0, Editor(model)
    for graph in main_graphs(model):
        for node in list(graph):
            if node.domain or node.op_type not in ("Concat", "Split"):
                continue
            originals = _whole(node, known) if node.op_type == "Concat" else _parts(node, known)
            if originals is not None:
                _pass_by(editor, graph, node, originals)
                count += 1
    return count


def _whole(node: ir.Node, known: Inference) -> list[ir.Value] | None:
    split = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    if split is None or split.op_type != "Split" or split.domain or tuple(node.inputs) != tuple(split.outputs):
        return None
    source = split.inputs[0]
    if source is None or _axis(node, known) is None or _axis(node, known) != _axis(split, known):
        return None
    return [source]


def _parts(node: ir.Node, known: Inference) -> list[ir.Value] | None:
    concat = node.inputs[0].producer() if node.inputs[0] is not None else None
    if concat is None or concat.op_type != "Concat" or concat.domain or len(concat.inputs) != len(node.outputs):
        return None
    axis = _axis(node, known)
    if axis is None or axis != _axis(concat, known):
        return None
    parts = [value for value in concat.inputs if value is not None]
    written = _sizes(node)
    for place, part in enumerate(parts):
        shape, made = known.fact(part).shape, known.fact(node.outputs[place]).shape
        size: Size | None = None if made is None else made[axis]
        if written is not None:
            size = written[place]
        if shape is None or size is None or shape[axis] != size:
            return None
    return parts


def _axis(node: ir.Node, known: Inference) -> int | None:
    axis = node.attributes.get("axis")
    value = node.inputs[0]
    shape = known.fact(value).shape if value is not None else None
    if shape is None or (axis is not None and axis.is_ref()):
        return None
    return (0 if axis is None else axis.as_int()) % len(shape)


def _sizes(node: ir.Node) -> list[int] | None:
    told = node.attributes.get("split")
    if told is not None:
        return None if told.is_ref() else list(told.as_ints())
    array = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if array is None else [int(size) for size in array]


def _pass_by(editor: Editor, graph: ir.Graph, node: ir.Node, originals: list[ir.Value]) -> None:
    """Let an Identity each stand for the outputs: it goes where an output of the model does not need it."""
    for old, original in zip(node.outputs, originals, strict=True):
        identity = ir.Node("", "Identity", [original], name=editor.name(f"{old.name}/same"))
        old.type = old.type or original.type
        graph.insert_before(node, identity)
        take_over(identity.outputs[0], old)
    graph.remove(node, safe=True)
