"""Weights that are stored as integers, as the floats that their levels stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.evaluate import evaluate_nodes
from onnxslim.arrays import Array
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor, take_over
from onnxslim.model.nesting import main_graphs
from onnxslim.ops.parameters import attribute
from onnxslim.ops.traits import Trait, has, having

from .forms import float_form


def fold_levels(model: ir.Model) -> int:
    """Replace each DequantizeLinear of constants by the floats that it makes, and return how many went.

    So goes a QuantizeLinear of constants in front of one: the floats are those of its levels; and a Cast of levels that
    are stored in fewer bits.
    """
    editor, count = Editor(model), 0
    for graph in main_graphs(model):
        for node in having([graph], Trait.QUANTIZES, Trait.DEQUANTIZES):
            levels = node.inputs[0]
            conversion = None if levels is None else levels.producer()
            nodes = [conversion, node] if conversion is not None and has(conversion, Trait.CONVERTS) else [node]
            made_inside = {value for inner in nodes for value in inner.outputs}
            read = (value for inner in nodes for value in inner.inputs if value not in made_inside)
            feeds = {value: constant(value) for value in read if value is not None}
            known = {value: array for value, array in feeds.items() if array is not None}
            if len(known) < len(feeds) or node.outputs[0].is_graph_output():
                continue
            made = evaluate_nodes(nodes, known, [node.outputs[0]], model.opset_imports)
            if made is None:
                continue
            old = node.outputs[0]
            old.replace_all_uses_with(editor.initializer(f"{old.name or ''}/float", made[0], graph))
            graph.remove(node, safe=True)
            count += 1
    return count


BITS = (1, 2, 4, 8)
"""How many bits a packed level may have."""
WEIGHT_AXES = 3
"""Axes of the weights of a recurrence: direction, what is read, gates of the units."""


def unpack(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return the levels of so many `bits` (out of `BITS`) that lie in the bytes of the last axis, low bits first."""
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1).astype(np.uint8)


def _packed_product(node: ir.Node, editor: Editor) -> ir.Node | None:
    """MatMulNBits: blocks of levels along the summed axis, each with a scale, and with a zero point or the middle one.

    Source: ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulNBits.
    """
    bits, size = attribute(node, "bits") or 4, attribute(node, "block_size")
    wide, columns = attribute(node, "K"), attribute(node, "N")
    packed, scales, zeros = (constant(_input(node, index)) for index in (1, 2, 3))
    if not (isinstance(bits, int) and isinstance(size, int) and isinstance(wide, int) and isinstance(columns, int)):
        return None
    if bits not in BITS or min(size, wide, columns) < 1 or packed is None or scales is None:
        return None
    blocks = -(-wide // size)
    if packed.dtype != np.uint8 or packed.size * 8 != columns * blocks * size * bits or scales.size != columns * blocks:
        return None
    if _input(node, 4) is not None or (_input(node, 3) is not None and zeros is None):
        return None
    if zeros is not None and zeros.size != columns * (-(-blocks * bits // 8) if zeros.dtype == np.uint8 else blocks):
        return None
    middle: Array = np.float32(1 << (bits - 1)) * np.ones((columns, blocks), np.float32)
    if zeros is not None:
        unpacked = unpack(zeros.reshape(columns, -1), bits)[:, :blocks] if zeros.dtype == np.uint8 else zeros
        middle = unpacked.reshape(columns, blocks).astype(np.float32)
    levels = unpack(packed.reshape(columns, blocks, -1), bits).astype(np.float32)
    floats = (levels - middle[..., None]) * scales.reshape(columns, blocks, 1).astype(np.float32)
    weight = floats.reshape(columns, -1)[:, :wide].T.astype(scales.dtype)
    product = ir.Node("", "MatMul", [node.inputs[0], _beside(node, editor, 1, np.ascontiguousarray(weight))])
    bias = _input(node, 5)
    return product if bias is None else _added(node, editor, product, bias)


def _recurrence(node: ir.Node, editor: Editor) -> ir.Node | None:
    """DynamicQuantizeLSTM: weights turned, with a scale for each direction, or for each gate of each unit as well.

    Source: ONNX Runtime, docs/ContribOperators.md, com.microsoft.DynamicQuantizeLSTM.
    """
    floats: list[Array] = []
    for weight, scale, zero in ((1, 8, 9), (2, 10, 11)):
        levels, step, middle = (constant(_input(node, index)) for index in (weight, scale, zero))
        if levels is None or step is None or middle is None or levels.ndim != WEIGHT_AXES or not len(levels):
            return None
        if not {step.size, middle.size} <= {len(levels), len(levels) * levels.shape[2]}:
            return None
        step, middle = (array.reshape(len(levels), 1, -1).astype(np.float32) for array in (step, middle))
        floats.append(np.ascontiguousarray(((levels.astype(np.float32) - middle) * step).transpose(0, 2, 1)))
    inputs = [node.inputs[0], *(_beside(node, editor, index + 1, array) for index, array in enumerate(floats))]
    inputs += [_input(node, index) for index in range(3, 8)]
    while inputs[-1] is None:
        inputs.pop()
    return ir.Node("", "LSTM", inputs, list(node.attributes.values()), num_outputs=len(node.outputs))


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _beside(node: ir.Node, editor: Editor, index: int, array: Array) -> ir.Value:
    """Return an initializer that is called after the input that it replaces."""
    value = node.inputs[index]
    return editor.initializer(f"{'' if value is None else value.name}/float", array, node.graph)


def _added(node: ir.Node, editor: Editor, product: ir.Node, bias: ir.Value) -> ir.Node:
    assert node.graph is not None
    product.outputs[0].name = editor.name(f"{node.outputs[0].name}/product")
    node.graph.insert_before(node, product)
    return ir.Node("", "Add", [product.outputs[0], bias])


READERS: Mapping[str, Callable[[ir.Node, Editor], ir.Node | None]] = {
    "packed product": _packed_product,
    "recurrence": _recurrence,
}
"""What makes the float form of a node whose weights are stored in a way of its own; None: not of this one."""


def unfold_packed(model: ir.Model) -> int:
    """Replace ops whose weights are stored in a way of their own by ops of floats, and return how many."""
    editor, count = Editor(model), 0
    for graph in main_graphs(model):
        for node in list(graph):
            form = float_form("stored", node)
            new = None if form is None else READERS[form](node, editor)
            if new is None:
                continue
            new.name = node.name
            graph.insert_before(node, new)
            for fresh, old in zip(new.outputs, node.outputs, strict=True):
                take_over(fresh, old)
            graph.remove(node, safe=True)
            count += 1
    return count
