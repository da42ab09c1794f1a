"""Replaces nodes that have no gradient by the nodes of other ops that they stand for: LSTM, Attention and the like."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.analysis.specialize import infer_and_fold
from onnxslim.autodiff.reverse import declared_gradients, depending
from onnxslim.errors import NotDifferentiable
from onnxslim.model.builder import GraphBuilder
from onnxslim.model.edit import take_over
from onnxslim.ops.body import find_body
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.parameters import describe, op_of, opset_of
from onnxslim.ops.site import Body, Declined, NodeSite

PREFIX = "expanded_"
DEEPEST = 4
"""Functions of ONNX call functions, of which some call functions again."""
HINT = "leave it out of what is trained: choose layers behind it, or export the model without it"


def expand(model: ir.Model, on: Collection[ir.Value]) -> int:
    """Replace the nodes that depend on some values and have no gradient, in place, as far as they are made of others.

    To be called before gradients are built. Sizes must be numbers. Names of inputs, outputs and other values stay;
    the values themselves do not. Constants are folded where something was replaced.

    Args:
        model: In canonical form, changed in place.
        on: The weights, inputs or other values that gradients will be asked for.

    Returns:
        How many nodes were replaced.

    Raises:
        NotDifferentiable: A node is of a form that is not known to be made of others; it is named.
    """
    count = 0
    for _ in range(DEEPEST):
        inference = Inference(model)
        inference.run()
        build = GraphBuilder(model, inference.walk, PREFIX)
        active = depending(model.graph, on)
        found = [
            (node, body)
            for node in model.graph
            if op_of(node) not in declared_gradients() and any(value in active for value in node.inputs)
            if (body := find_body(node, opset_of(node))) is not None
        ]
        for node, body in found:
            _replace(build, node, body)
        if not found:
            break
        count += len(found)
        infer_and_fold(model)
    return count


def _replace(build: GraphBuilder, node: ir.Node, body: Body) -> None:
    build.before = node
    try:
        results = body(NodeSite(node, build))
    except Declined as error:
        raise NotDifferentiable(
            f"{describe(node)} has no gradient: {error}", where=node.name or None, hint=HINT
        ) from error
    except Unknowable as error:
        raise NotDifferentiable(
            f"{describe(node)} has a gradient, but a size or a parameter of it is not known before the model runs",
            where=node.name or None,
            hint="fix the sizes of the inputs",
        ) from error
    own: set[ir.Value] = set()
    for output, result in zip(node.outputs, results, strict=False):
        if result is None or not output.name:
            continue
        if result.producer() is None or result in own or result in node.inputs:
            result = build.op("Identity", result)
        own.add(result)
        take_over(result, output)
    build.model.graph.remove(node, safe=True)
