"""Takes out a Split and a Concat that undo each other.

a, b = Split (x)  y = Concat (a, b)    ->    y = x
x = Concat (a, b)  c, d = Split (x)    ->    c = a, d = b, where the borders are the same
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxslim.analysis.inference import Inference
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.families.movement import split_lengths
from onnxslim.ops.parameters import attribute
from onnxslim.ops.relations import NodeAxes
from onnxslim.ops.traits import Trait, has, having
from onnxslim.rewrite.identity import pass_by


def join_pieces(model: ir.Model, known: Inference) -> int:
    """Pass by each Concat of all parts of a Split, and each Split of a Concat at its borders. Returns how many."""
    count = 0
    for node in having(main_graphs(model), Trait.JOINING, Trait.PARTS):
        values = _whole(node, known) if has(node, Trait.JOINING) else _parts(node, known)
        if values is not None:
            pass_by(node, values)
            count += 1
    return count


def _whole(concat: ir.Node, known: Inference) -> Sequence[ir.Value] | None:
    """Return the value that a Concat puts together again."""
    split = _producer(concat, Trait.PARTS)
    if split is None or tuple(concat.inputs) != tuple(split.outputs) or split.inputs[0] is None:
        return None
    return [split.inputs[0]] if _axis(concat, known) == _axis(split, known) is not None else None


def _parts(split: ir.Node, known: Inference) -> Sequence[ir.Value] | None:
    """Return the parts that a Split takes apart again."""
    concat, axis = _producer(split, Trait.JOINING), _axis(split, known)
    if concat is None or len(concat.inputs) != len(split.outputs) or axis is None or axis != _axis(concat, known):
        return None
    parts = [value for value in concat.inputs if value is not None]
    sizes = split_lengths(NodeAxes(split))
    for index, part in enumerate(parts):
        shape, result = known.fact(part).shape, known.fact(split.outputs[index]).shape
        size = sizes[index] if sizes is not None else None if result is None else result[axis]
        if shape is None or size is None or shape[axis] != size:
            return None
    return parts


def _producer(node: ir.Node, trait: Trait) -> ir.Node | None:
    """Return the producer of the first input, where it has a trait."""
    producer = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return producer if producer is not None and has(producer, trait) else None


def _axis(node: ir.Node, known: Inference) -> int | None:
    value, axis = node.inputs[0], attribute(node, "axis")
    shape = known.fact(value).shape if value is not None else None
    return None if shape is None or not isinstance(axis, int) else axis % len(shape)
