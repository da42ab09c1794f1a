"""A cut of places out of axes, as the ops see it that hold lengths and places as attributes or constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Mask
from onnxslim.model.constants import constant
from onnxslim.model.edit import Editor
from onnxslim.ops.binding import dimensions
from onnxslim.ops.parameters import known_elements


class Cut:
    """Which places of which axes stay, and what adds new constants.

    Args:
        editor: Of the model whose nodes are rewritten.
        stays: For a value and an axis, whether each place stays; None where the size is not known.
    """

    def __init__(self, editor: Editor, stays: Callable[[ir.Value, int], Mask | None]) -> None:
        self.editor = editor
        self._stays = stays

    def stays(self, value: ir.Value | None, axis: int) -> Mask | None:
        """Return for each place along an axis whether it stays; None where its size is not known."""
        return None if value is None else self._stays(value, axis)

    def length(self, value: ir.Value | None, axis: int) -> int | None:
        """Return how many places along an axis stay; None where its size is not known."""
        stays = self.stays(value, axis)
        if stays is not None:
            return int(stays.sum())
        shape = None if value is None else dimensions(value)  # an axis too long to hold channels
        return None if shape is None or axis >= len(shape) else shape[axis]

    def write(self, node: ir.Node, name: str, index: int, entries: Sequence[int]) -> None:
        """Write integers where the node has them: in an attribute, or in the input `index` as a new constant."""
        if name in node.attributes:
            node.attributes[name] = ir.AttrInt64s(name, entries)
            return
        old = constant(node.inputs[index]) if index < len(node.inputs) else None
        like = old if old is not None else np.zeros(len(entries), np.int64)
        array = np.array(entries, like.dtype).reshape(like.shape if like.size == len(entries) else -1)
        if np.array_equal(array, like) and old is not None:
            return
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, self.editor.initializer(f"{node.outputs[0].name}_{name}", array))

    def write_shape(self, node: ir.Node, name: str, index: int) -> None:
        """Write the shape of the result where the node is told it; entries up to 1 follow by themselves."""
        result = node.outputs[0]
        attribute = node.attributes.get(name)
        given = node.inputs[index] if index < len(node.inputs) else None
        entries = known_elements(given) if attribute is None else attribute.as_ints()
        if entries is None or result.shape is None:
            return
        missing = len(result.shape) - len(entries)
        lengths: list[int | None] = []
        for axis, entry in enumerate(entries):
            if not isinstance(entry, int) or entry < 0 or entry == 1:
                lengths.append(entry if isinstance(entry, int) else None)
                continue
            left = self.length(result, axis + missing)
            # 0 copies the length of the same axis of the input, which may be another one altogether.
            stays = left == self.length(node.inputs[0], axis) if entry == 0 else left is None
            lengths.append(entry if stays else left)
        if attribute is not None or constant(given) is not None:
            self.write(node, name, index, [length or 0 for length in lengths])
        elif given is not None and lengths != list(entries):
            node.replace_input_with(index, self._shape_like(node, given, lengths))

    def _shape_like(self, node: ir.Node, shape: ir.Value, lengths: Sequence[int | None]) -> ir.Value:
        """Return a vector as `shape` with other numbers in it; what is None in `lengths` stays computed as it is.

        `shape` is a constant, or a Concat of such vectors (`known_elements`). Others may read it: a new Concat is made.
        """
        array = constant(shape)
        stem = f"{node.outputs[0].name}_shape"
        if array is not None:
            new = np.array(lengths, array.dtype).reshape(array.shape)
            return shape if np.array_equal(new, array) else self.editor.initializer(stem, new)
        joint = shape.producer()
        entries = known_elements(shape)
        if joint is None or entries is None or tuple(lengths) == entries:
            return shape
        parts: list[ir.Value] = []
        begin = 0
        for part in joint.inputs:
            assert part is not None
            count = len(known_elements(part) or ())
            parts.append(self._shape_like(node, part, lengths[begin : begin + count]))
            begin += count
        copy = ir.Node(joint.domain, joint.op_type, parts, attributes=list(joint.attributes.values()), num_outputs=1)
        copy.outputs[0].name = self.editor.name(stem)
        copy.outputs[0].type, copy.outputs[0].shape = shape.type, shape.shape
        self.editor.graph.insert_before(node, copy)
        return copy.outputs[0]
