"""Joins chains that are too general for a rule: two changes of shape, concatenations of concatenations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.bias import only_use
from onnxslim.analysis.inference import Inference
from onnxslim.model.edit import Editor, set_inputs, take_over
from onnxslim.model.nesting import every_graph, main_graphs
from onnxslim.ops.traits import Trait, has, having

from .shapes import reshape_target


def join_reshapes(model: ir.Model, known: Inference) -> int:
    """Let one Reshape stand for two ops that change the shape alone, where it can be given that of the result.

    Rules do the same where only the second is a Reshape to a known shape. Returns how many were joined.
    """
    count, editor = 0, Editor(model)
    for node in having(main_graphs(model), Trait.RESHAPES):
        first = _only_producer(node, 0)
        if first is None or not has(first, Trait.RESHAPES) or node.graph is None or first.graph is not node.graph:
            continue
        source, shape = first.inputs[0], known.fact(node.outputs[0]).shape
        if source is None or shape is None:
            continue
        sizes = reshape_target(known.fact(source).shape, shape)
        if sizes is not None:
            _replace(editor, node.graph, node, first, sizes)
            count += 1
    return count


def _only_producer(node: ir.Node, index: int) -> ir.Node | None:
    """Return the producer of an input that nothing else reads."""
    value = node.inputs[index] if len(node.inputs) > index else None
    return None if value is None or only_use(value) is None else value.producer()


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
    for node in having(every_graph(model), Trait.JOINING):
        if node.graph is None:
            continue  # it was joined to another one
        inner = [maker for index in range(len(node.inputs)) if (maker := _inner_concat(node, index)) is not None]
        if not inner:
            continue
        parts: dict[ir.Value | None, Sequence[ir.Value | None]] = {maker.outputs[0]: maker.inputs for maker in inner}
        set_inputs(node, [part for value in node.inputs for part in parts.get(value, (value,))])
        node.graph.remove(inner, safe=True)
        count += len(inner)
    return count


def _inner_concat(node: ir.Node, index: int) -> ir.Node | None:
    producer = _only_producer(node, index)
    if producer is None or not has(producer, Trait.JOINING) or producer.graph is not node.graph:
        return None
    outer, inner = node.attributes.get("axis"), producer.attributes.get("axis")
    if outer is None or inner is None or outer.is_ref() or inner.is_ref():
        return None
    return producer if outer.as_int() == inner.as_int() else None
