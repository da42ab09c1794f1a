"""Reverse mode: the gradients of values with respect to others, built node by node from the end of a graph.

Source: A. Griewank and A. Walther, Evaluating Derivatives, 2nd edition (2008), chapter 3: the adjoint of each value is
the sum, over the nodes that read it, of the products of their results' adjoints with their Jacobians.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence, Set

import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.autodiff.formulas import formulas, nothing
from onnxslim.errors import NotDifferentiable
from onnxslim.model.builder import GraphBuilder
from onnxslim.model.nesting import read_values
from onnxslim.ops import gradients
from onnxslim.ops.fact import Unknowable
from onnxslim.ops.gradient import Declined, Gradient, GradientSite, static_shape, sum_to
from onnxslim.ops.parameters import describe, op_of
from onnxslim.ops.signatures import OpName
from onnxslim.ops.traits import Trait, has

PREFIX = "gradient_"
NAMED = 5
"""Nodes without a gradient that a message names."""
HINT = "leave it out of what is trained: choose layers behind it, or export the model without it"


@functools.cache
def declared_gradients() -> Mapping[OpName, Gradient]:
    """Return the gradients of all ops that have one."""
    modules = [
        importlib.import_module(f"{gradients.__name__}.{m.name}") for m in pkgutil.iter_modules(gradients.__path__)
    ]
    return {**formulas(), **{op: gradient for module in modules for op, gradient in module.GRADIENTS.items()}}


def graph_builder(model: ir.Model) -> GraphBuilder:
    """Return a builder that appends to `model`, whose shapes are inferred first, and are numbers as a rule."""
    inference = Inference(model)
    inference.run()
    return GraphBuilder(model, inference.walk, PREFIX)


def depending(graph: ir.Graph, on: Iterable[ir.Value]) -> set[ir.Value]:
    """Return the values of real numbers that depend on some values, and these; integers that stand for real numbers
    count as such, and so do those that are computed of them."""
    found = set(on)
    codes: set[ir.Value] = set()
    for node in graph:
        if not any(value in found for value in read_values(node)):
            continue
        if has(node, Trait.QUANTIZES) or codes.intersection(node.inputs):
            codes.update(output for output in node.outputs if output.dtype is not None and output.dtype.is_integer())
        found.update(
            output
            for output in node.outputs
            if output.dtype is None or output.dtype.is_floating_point() or output in codes
        )
    return found


def build_gradients(
    build: GraphBuilder, seeds: Mapping[ir.Value, ir.Value], of: Sequence[ir.Value]
) -> Mapping[ir.Value, ir.Value]:
    """Append the gradients of a sum to a graph.

    Args:
        build: Appends to the graph. Shapes of its values are known, as numbers.
        seeds: The gradient of the sum with respect to values of the graph, each of the shape of its value.
        of: The values whose gradients are asked for: weights, inputs, or values between.

    Returns:
        The gradient of each of them that the sum depends on, of its shape.

    Raises:
        NotDifferentiable: Ops between have no gradient, or one that needs to know more than can be known before the
            model runs; they are named.
    """
    active = depending(build.model.graph, of)
    nodes = _on_the_way(build.model.graph, active, seeds)
    adjoints: dict[ir.Value, list[ir.Value]] = {value: [seed] for value, seed in seeds.items()}
    for node in nodes:
        upstream = tuple(_total(build, adjoints, output) for output in node.outputs)
        if all(value is None for value in upstream):
            continue
        wanted = frozenset(index for index, value in enumerate(node.inputs) if value in active)
        for value, gradient in _of_node(build, node, upstream, wanted):
            adjoints.setdefault(value, []).append(gradient)
    totals = {value: _total(build, adjoints, value) for value in of}
    return {value: total for value, total in totals.items() if total is not None}


def _on_the_way(graph: ir.Graph, active: Set[ir.Value], ends: Iterable[ir.Value]) -> Sequence[ir.Node]:
    """Return the nodes between active values and the ends that hang on them, from the last to the first.

    Raises:
        NotDifferentiable: Some have no gradient.
    """
    reached = set(ends)
    found: list[ir.Node] = []
    missing: list[ir.Node] = []
    for node in reversed(graph):
        if reached.isdisjoint(node.outputs) or active.isdisjoint(read_values(node)):
            continue
        gradient = declared_gradients().get(op_of(node))
        (found if gradient is not None else missing).append(node)
        if gradient is not nothing:
            reached.update(value for value in node.inputs if value is not None and value in active)
    if missing:
        names = [describe(node) for node in reversed(missing)]
        listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} others" if len(names) > NAMED else "")
        raise NotDifferentiable(
            f"{listed} {'has' if len(names) == 1 else 'have'} no gradient", where=missing[-1].name or None, hint=HINT
        )
    return found


def _total(build: GraphBuilder, adjoints: dict[ir.Value, list[ir.Value]], value: ir.Value) -> ir.Value | None:
    """Return the sum of what came back to a value; None where nothing did."""
    parts = adjoints.get(value)
    if not parts:
        return None
    if len(parts) > 1:
        adjoints[value] = parts = [build.op("Sum", *parts)]
    return parts[0]


def _of_node(
    build: GraphBuilder, node: ir.Node, upstream: tuple[ir.Value | None, ...], wanted: frozenset[int]
) -> Sequence[tuple[ir.Value, ir.Value]]:
    """Return inputs of a node, each with a gradient of its shape."""
    try:
        made = declared_gradients()[op_of(node)](GradientSite(node, build, upstream, wanted))
        operands = ((value, made.get(index)) for index, value in enumerate(node.inputs) if index in wanted)
        found = [(value, gradient) for value, gradient in operands if value is not None and gradient is not None]
        if any(gradient.dtype is not None and gradient.dtype.is_integer() for _, gradient in found):
            raise Declined("it computes with integers that stand for real numbers")
        if has(node, Trait.ELEMENTWISE):
            found = [(value, sum_to(build, gradient, static_shape(value))) for value, gradient in found]
        return found
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
