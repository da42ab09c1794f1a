"""Passes by ops of which the sizes prove that they do nothing, and expansions that broadcasting does anyway."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.edit import set_inputs
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.arithmetic import broadcast_shapes
from onnxslim.ops.families.stretching import resize_scales
from onnxslim.ops.relations import NodeAxes
from onnxslim.ops.traits import Trait, has, having
from onnxslim.rewrite.identity import pass_by


def pass_by_ops_without_effect(model: ir.Model, known: Inference) -> int:
    """Let the users of ops that are proved to do nothing use what these read. Returns how many there were."""
    nodes = having(main_graphs(model), Trait.IDENTITY_AT_EQUAL_SHAPE)
    return sum(_pass_by_first(node) for node in nodes if _keeps_shape(node, known))


def _keeps_shape(node: ir.Node, known: Inference) -> bool:
    source = node.inputs[0]
    if source is None or len(node.outputs) != 1:
        return False
    before, after = known.fact(source), known.fact(node.outputs[0])
    if before.shape is None or before.shape != after.shape or before.dtype is not after.dtype:
        return False
    if has(node, Trait.RESCALES):
        return _resizes_by_1(node)
    return not has(node, Trait.SLICES) or _goes_forward(node, known)


def _resizes_by_1(node: ir.Node) -> bool:
    """Whether an image that keeps its sizes keeps its pixels: it is scaled by 1, and nothing is cropped.

    By 1.1 a small image keeps its sizes, too. Every way to interpolate gives a pixel itself at the place of a pixel.
    """
    mode = node.attributes.get("coordinate_transformation_mode")
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return False
    if mode is not None and mode.as_string() == "tf_crop_and_resize":
        return False
    site = NodeAxes(node)
    if site.has(3):
        return True  # the sizes of the result are given, and those are equal
    scales = resize_scales(site)
    return scales is not None and all(scale == 1 for scale in scales)


def _goes_forward(node: ir.Node, known: Inference) -> bool:
    if len(node.inputs) < 5 or node.inputs[4] is None:
        return True
    steps = known.fact(node.inputs[4]).elements
    return steps is not None and all(isinstance(step, int) and step > 0 for step in steps)


def _pass_by_first(node: ir.Node) -> bool:
    """Let the first input stand for the result, unless that would only put an Identity there."""
    source = node.inputs[0]
    if source is None or (node.outputs[0].is_graph_output() and source.producer() is None):
        return False
    pass_by(node, [source])
    return True


def leave_to_broadcasting(model: ir.Model, known: Inference) -> int:
    """Let ops that broadcast read what an Expand reads, where their result is as large without it.

    Returns:
        How many Expands are needed no more.
    """
    count = 0
    for node in having(main_graphs(model), Trait.WIDENS):
        uses = list(node.outputs[0].uses())
        if not uses or node.outputs[0].is_graph_output():
            continue
        if all(_is_widened_anyway(use.node, node, known) for use in uses):
            for use in uses:
                use.node.replace_input_with(use.idx, node.inputs[0])
            count += 1
    return count


def _is_widened_anyway(user: ir.Node, expand: ir.Node, known: Inference) -> bool:
    """Whether an op has the same result if it reads the input of `expand` wherever it reads its output."""
    source, widened = expand.inputs[0], expand.outputs[0]
    if source is None or not has(user, Trait.BROADCASTING):
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
    for node in having(main_graphs(model), Trait.JOINING):
        axis = node.attributes.get("axis")
        if axis is None or axis.is_ref():
            continue
        shapes = [None if value is None else known.fact(value).shape for value in node.inputs]
        parts = [
            value
            for value, shape in zip(node.inputs, shapes, strict=True)
            if shape is None or not -len(shape) <= axis.as_int() < len(shape) or shape[axis.as_int()] != 0
        ]
        if parts and len(parts) < len(node.inputs):
            set_inputs(node, parts)
            count += 1
        if len(node.inputs) == 1:
            count += _pass_by_first(node)
    return count
