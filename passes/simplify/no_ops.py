"""Passes by ops of which the sizes prove that they do nothing, and expansions that broadcasting does anyway."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.constants import constant
from onnxslim.model.edit import take_over
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.arithmetic import broadcast_shapes
from onnxslim.rewrite.identity import eliminate_identity

SAME_SHAPE_SAME_VALUE = frozenset(
    {
        "Expand",
        "Flatten",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Reshape",
        "Resize",
        "Slice",
        "Squeeze",
        "Tile",
        "Unsqueeze",
        "Upsample",
    }
)
"""Ops that, where they keep the shape, keep the elements: what is reduced is alone, what is cut or repeated is all,
what is resized is resized by 1."""

RESIZING = frozenset({"Resize", "Upsample"})
"""Ops of images that keep the elements where they are told to scale by 1."""

RESIZE_SIZES = 3
"""The input of Resize that says how large the image shall be."""

BROADCASTING = frozenset(
    {
        "Add",
        "And",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Or",
        "Pow",
        "Sub",
        "Sum",
        "Where",
        "Xor",
    }
)
"""Ops whose inputs widen each other."""


def pass_by_ops_without_effect(model: ir.Model, known: Inference) -> int:
    """Let the users of ops that are proved to do nothing use what these read. Returns how many there were."""
    count = 0
    for graph in main_graphs(model):
        for node in list(graph):
            if node.op_type in SAME_SHAPE_SAME_VALUE and not node.domain and _keeps_shape(node, known):
                count += _pass_by(node, graph)
    return count


def _keeps_shape(node: ir.Node, known: Inference) -> bool:
    source = node.inputs[0]
    if source is None or len(node.outputs) != 1:
        return False
    before, after = known.fact(source), known.fact(node.outputs[0])
    if before.shape is None or before.shape != after.shape or before.dtype is not after.dtype:
        return False
    if node.op_type in RESIZING:
        return _resizes_by_1(node)
    return node.op_type != "Slice" or _goes_forward(node, known)


def _resizes_by_1(node: ir.Node) -> bool:
    """Whether an image that keeps its sizes keeps its pixels: it is scaled by 1, and nothing is cropped.

    By 1.1 a small image keeps its sizes, too. Every way to interpolate gives a pixel itself at the place of a pixel.
    """
    way = node.attributes.get("coordinate_transformation_mode")
    if way is not None and (way.is_ref() or way.as_string() == "tf_crop_and_resize"):
        return False
    sizes = node.inputs[RESIZE_SIZES] if len(node.inputs) > RESIZE_SIZES else None
    if sizes is not None:
        return True
    written = node.attributes.get("scales")
    if written is not None:
        return not written.is_ref() and all(scale == 1 for scale in written.as_floats())
    scales = constant(node.inputs[-1]) if len(node.inputs) > 1 else None
    return scales is not None and scales.size > 0 and bool((scales == 1).all())


def _goes_forward(node: ir.Node, known: Inference) -> bool:
    if len(node.inputs) < 5 or node.inputs[4] is None:
        return True
    steps = known.fact(node.inputs[4]).elements
    return steps is not None and all(isinstance(step, int) and step > 0 for step in steps)


def _pass_by(node: ir.Node, graph: ir.Graph) -> bool:
    """Put an Identity in the place of a node, and take it out where it is of no use."""
    old = node.outputs[0]
    if old.is_graph_output() and (node.inputs[0] is None or node.inputs[0].producer() is None):
        return False  # an Identity would have to stay, and nothing be gained
    identity = ir.Node("", "Identity", [node.inputs[0]], name=node.name)
    graph.insert_before(node, identity)
    take_over(identity.outputs[0], old)
    graph.remove(node, safe=True)
    eliminate_identity(identity)
    return True


def leave_to_broadcasting(model: ir.Model, known: Inference) -> int:
    """Let ops that broadcast read what an Expand reads, where their result is as large without it.

    Returns:
        How many Expands are needed no more.
    """
    count = 0
    for graph in main_graphs(model):
        for node in graph:
            if node.op_type == "Expand" and not node.domain and not node.outputs[0].is_graph_output():
                uses = list(node.outputs[0].uses())
                if uses and all(_is_widened_anyway(use.node, node, known) for use in uses):
                    for use in uses:
                        use.node.replace_input_with(use.idx, node.inputs[0])
                    count += 1
    return count


def _is_widened_anyway(user: ir.Node, expand: ir.Node, known: Inference) -> bool:
    """Whether an op makes the same if it reads, in every place at once, what `expand` reads, not what it makes."""
    source, widened = expand.inputs[0], expand.outputs[0]
    if user.op_type not in BROADCASTING or user.domain or source is None:
        return False
    values = [source if value is widened else value for value in user.inputs]
    shapes = [known.fact(value).shape for value in values if value is not None]
    result = known.fact(user.outputs[0]).shape
    if result is None or any(shape is None for shape in shapes):
        return False
    try:
        return broadcast_shapes([shape for shape in shapes if shape is not None]) == result
    except ValueError:
        return False


def drop_empty_parts(model: ir.Model, known: Inference) -> int:
    """Let a Concat not read what has no elements, and be nothing where it reads one value. Returns how many changed."""
    count = 0
    for graph in main_graphs(model):
        for node in list(graph):
            axis = node.attributes.get("axis")
            if node.op_type != "Concat" or node.domain or axis is None or axis.is_ref():
                continue
            shapes = [None if value is None else known.fact(value).shape for value in node.inputs]
            full = [
                value
                for value, shape in zip(node.inputs, shapes, strict=True)
                if shape is None or not -len(shape) <= axis.as_int() < len(shape) or shape[axis.as_int()] != 0
            ]
            if full and len(full) < len(node.inputs):
                node.resize_inputs(len(full))
                for place, value in enumerate(full):
                    node.replace_input_with(place, value)
                count += 1
            if len(node.inputs) == 1 and node.inputs[0] is not None:
                count += _pass_by(node, graph)
    return count
