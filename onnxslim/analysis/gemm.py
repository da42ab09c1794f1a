"""Brings products of matrices (Gemm) to the plain form x W + b, which is what kernels, factors and rules look for.

Gemm computes alpha A' B' + beta C, A and B turned where it is asked for (ONNX operators, Gemm). What is stored takes
the factors into itself; what is computed gets nodes of its own beside the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, overwrite, take_over
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has


def fold_scales(model: ir.Model) -> int:
    """Multiply alpha into the stored factors and beta into the stored summands of all Gemms, in place, and return how
    many attributes went. A factor that is read with another alpha, or by other ops, stays: it would be stored twice."""
    gemms = [node for graph in main_graphs(model) for node in graph if has(node, Trait.GENERAL_PRODUCT)]
    return sum(_fold(node, "alpha", (1, 0)) + _fold(node, "beta", (2,)) for node in gemms)


def _fold(node: ir.Node, name: str, places: Sequence[int]) -> int:
    if _factor(node, name) == 1.0:
        return 0
    for place in places:
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is None:
            return _drop(node, name)
        array = constant(value)
        if array is None or not value.is_initializer() or value.is_graph_output():
            continue
        readers = [(use.node, use.idx) for use in value.uses()]
        alike = all(
            has(reader, Trait.GENERAL_PRODUCT) and input_index == place and _factor(reader, name) == _factor(node, name)
            for reader, input_index in readers
        )
        scaled = _scaled(array, _factor(node, name)) if alike else None
        if scaled is not None:
            overwrite(value, scaled)
            return sum(_drop(reader, name) for reader, _ in readers)
    return 0


def _factor(node: ir.Node, name: str) -> float:
    found = attribute(node, name)
    return float(found) if isinstance(found, (int, float)) else 1.0


def _drop(node: ir.Node, name: str) -> int:
    node.attributes.pop(name, None)
    return 1


def _scaled(array: Array, factor: float) -> Array | None:
    """Return `array` times `factor` in its own type; None where it has no numbers with a point, or they overflow."""
    kind = ir.DataType.from_numpy(array.dtype)
    if not kind.is_floating_point():
        return None
    wide = array.astype(np.float64)
    with np.errstate(over="ignore"):  # it is looked for below
        scaled = (wide * factor).astype(array.dtype)
    kept = np.isfinite(scaled.astype(np.float64)) == np.isfinite(wide)
    return np.asarray(scaled) if kept.all() else None


def spread(model: ir.Model, wanted: Callable[[ir.Node], bool]) -> int:
    """Give what Gemms do beside x W + b nodes of their own, in place: scales, turned data, summands that are no vector.

    A product of two computed matrices becomes a MatMul. Returns how many Gemms were changed.

    Args:
        model: Its shapes must be known; nested graphs are left alone.
        wanted: Says of which Gemms.
    """
    editor = Editor(model)
    return sum(_spread(editor, node) for node in list(model.graph) if has(node, Trait.GENERAL_PRODUCT) and wanted(node))


def _columns(node: ir.Node) -> int | None:
    """Return how many columns the product has, where that and the type of its numbers are known."""
    right, output = node.inputs[1], node.outputs[0]
    shape = output.shape if right is None or right.shape is None else right.shape
    if output.dtype is None or not output.dtype.is_floating_point() or shape is None or len(shape) != 2:
        return None
    size = shape[0] if shape is not output.shape and attribute(node, "transB") else shape[1]
    return size if isinstance(size, int) else None


def _spread(editor: Editor, node: ir.Node) -> bool:
    columns, output = _columns(node), node.outputs[0]
    if columns is None or output.dtype is None:
        return False
    numbers = output.dtype.numpy()
    alpha, beta = _factor(node, "alpha"), _factor(node, "beta")
    computed, turned = constant(node.inputs[1]) is None, bool(attribute(node, "transA"))
    summand = node.inputs[2] if len(node.inputs) > 2 else None
    stored = constant(summand)
    row = stored is not None and (stored.size == 1 or (stored.size == columns and stored.shape[-1] == columns))
    plain = alpha == beta == 1.0 and not (computed or turned)
    if plain and (summand is None or (stored is not None and stored.shape == (columns,))):
        return False
    inside = 1.0 if computed else alpha  # the summand of a product that is scaled behind it is scaled back
    vector: Array | None = np.zeros(columns, numbers)
    if row and stored is not None:
        vector = _scaled(np.broadcast_to(stored.reshape(-1), (columns,)), beta / inside) if inside else None
        summand = None
    if vector is None:
        return False
    for index, name in enumerate(("transA", "transB")[: 1 + computed]):
        matrix = node.inputs[index]
        if attribute(node, name) and matrix is not None:
            shape = None if matrix.shape is None else ir.Shape(list(matrix.shape)[::-1])
            _read_through(editor, node, index, ir.node("Transpose", [matrix], {"perm": [1, 0]}, name=""), shape)
        node.attributes.pop(name, None)
    for name in ("alpha", "beta"):
        node.attributes.pop(name, None)
    last = node
    if computed:
        last = _as_matmul(editor.graph, node)
    else:
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, editor.initializer(f"{output.name}_bias", vector))
    if alpha != 1.0:
        last = _behind(editor, last, "Mul", editor.initializer(f"{output.name}_alpha", np.asarray(alpha, numbers)))
    if computed and vector.any():
        last = _behind(editor, last, "Add", editor.initializer(f"{output.name}_bias", vector))
    if summand is not None:
        last = _behind(editor, last, "Add", summand)
        if beta != 1.0:
            factor = editor.initializer(f"{output.name}_beta", np.asarray(beta, numbers))
            _read_through(editor, last, 1, ir.node("Mul", [summand, factor], name=""), summand.shape)
    return True


def _read_through(editor: Editor, node: ir.Node, index: int, new: ir.Node, shape: ir.Shape | None) -> None:
    """Let a node read an input through a new node, which makes a value of the same type and of this shape of it."""
    value = new.outputs[0]
    value.name, value.type, value.shape = editor.numbered("val_"), node.outputs[0].type, shape
    editor.graph.insert_before(node, new)
    node.replace_input_with(index, value)


def _as_matmul(graph: ir.Graph, node: ir.Node) -> ir.Node:
    """Put a MatMul in the place of a Gemm, under its name, without its summand."""
    product = ir.Node("", "MatMul", node.inputs[:2], name=node.name)
    graph.insert_before(node, product)
    take_over(product.outputs[0], node.outputs[0])
    graph.remove(node, safe=True)
    return product


def _behind(editor: Editor, node: ir.Node, op_type: str, operand: ir.Value) -> ir.Node:
    """Add a node behind `node` that takes over its output, and return it."""
    old = node.outputs[0]
    inner = editor.name(f"{old.name}/{node.op_type}")
    follower = ir.Node("", op_type, [None, operand], name="")
    editor.graph.insert_after(node, follower)
    take_over(follower.outputs[0], old)
    follower.replace_input_with(0, old)
    old.name = inner
    return follower
