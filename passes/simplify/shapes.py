"""Writes down the shapes that a model computes while it runs, where they are known but for one size.

An exporter that does not know the batch size writes Shape, Gather, Unsqueeze, Concat in front of every Reshape. When
the shape of the result is known but for one size, that is -1; sizes that the input has at the same place are 0, which
copies them. What computed the shape is then dead.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.inference import Inference, dimension
from onnxslim.analysis.inference import declared as declared_fact
from onnxslim.model.constants import constant_tensor
from onnxslim.model.edit import Editor
from onnxslim.model.nesting import every_graph, main_graphs
from onnxslim.ops.parameters import op_of
from onnxslim.ops.symbols import Size
from onnxslim.ops.table import find_op
from onnxslim.ops.traits import Trait, has

Declared = dict[str, "ir.Shape | None"]


def distrust_shapes(model: ir.Model) -> Declared:
    """Forget what the file says about shapes that nodes make, and return it.

    Files are cut, merged and given other batch sizes, and seldom are all declarations corrected: real models declare
    even the rank of their outputs wrong. Only inputs and weights are believed, and what follows from them. The sizes of
    inputs are written as formulas are, so that equal texts are equal sizes: names that are no words in braces, and what
    is not known (-1, ``?``) as a size of its own.
    """
    declared: Declared = {}
    for graph in every_graph(model):
        for value in graph.inputs:
            declared[value.name or ""] = value.shape
            known = declared_fact(value).shape
            if known is not None:
                value.shape = ir.Shape([dimension(size) for size in known])
        for node in graph:
            for output in node.outputs:
                declared[output.name or ""] = output.shape
                output.shape = None
    return declared


def restore_shapes(model: ir.Model, declared: Declared) -> None:
    """Give inputs and results of graphs the shapes that they were declared to have, and values that have none."""
    for graph in every_graph(model):
        for value in graph.inputs:
            value.shape = declared.get(value.name or "", value.shape)
        for node in graph:
            for output in node.outputs:
                if output.is_graph_output() or output.shape is None:
                    output.shape = declared.get(output.name or "", output.shape)
                elif any(isinstance(size, ir.SymbolicDim) and "{" in (size.value or "") for size in output.shape):
                    output.shape = ir.Shape([_without_inferred(size) for size in output.shape])


def _without_inferred(size: int | ir.SymbolicDim) -> int | ir.SymbolicDim | None:
    """Return a size without the names that only inference gives: they are not for files."""
    return None if isinstance(size, ir.SymbolicDim) and "{" in (size.value or "") else size


def spell_out_shapes(model: ir.Model, known: Inference) -> int:
    """Replace computed shapes by constants where they are known. Returns how many."""
    count, editor = 0, Editor(model)
    for graph in main_graphs(model):
        for node in list(graph):
            index = find_op(op_of(node)).shape_input
            value = None if index is None or index >= len(node.inputs) else node.inputs[index]
            if index is None or value is None or constant_tensor(value) is not None:
                continue
            sizes = _sizes(node, known)
            if sizes is not None:
                shape = editor.initializer(f"{node.outputs[0].name}/shape", np.array(sizes, np.int64), graph)
                node.replace_input_with(index, shape)
                count += 1
    return count


def _sizes(node: ir.Node, known: Inference) -> list[int] | None:
    """Return the shape of a result as its node can be given it, or None."""
    shape = known.fact(node.outputs[0]).shape
    source = known.fact(node.inputs[0]).shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    if has(node, Trait.RESHAPES):
        allow_zero = node.attributes.get("allowzero")
        if allow_zero is not None and (allow_zero.is_ref() or allow_zero.as_int()):
            return None
        return reshape_target(source, shape)
    sizes: list[Size] = list(shape)
    if has(node, Trait.WIDENS) and source is not None and len(source) == len(shape):
        # A size that the input has already is not widened: 1 leaves it.
        sizes = [
            1 if not isinstance(want, int) and have == want else want for have, want in zip(source, shape, strict=True)
        ]
    return [size for size in sizes if isinstance(size, int)] if all(isinstance(size, int) for size in sizes) else None


def reshape_target(source: tuple[Size, ...] | None, shape: tuple[Size, ...]) -> list[int] | None:
    """Return the shape input of a Reshape from `source` to `shape`: 0 copies a size, -1 is the one that is left over.

    Returns:
        None where that does not suffice, or a size is 0, which cannot be written.
    """
    if 0 in shape:
        return None
    target = [
        size if isinstance(size, int) else 0 if source is not None and source[place : place + 1] == (size,) else -1
        for place, size in enumerate(shape)
    ]
    return None if target.count(-1) > 1 else target
