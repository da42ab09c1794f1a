"""What is constant: initializers as arrays, and what they weigh."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array

CONSTANT = ("", "Constant")
"""The node that stores a tensor. To the file format it is what an initializer is: the only op that this floor knows."""


class Operation(Protocol):
    """What has an op: a node of a model, of a file, or of a rule."""

    @property
    def domain(self) -> str:
        """The domain; ONNX's own is empty."""

    @property
    def op_type(self) -> str:
        """The op in its domain."""


def is_constant_node(node: Operation) -> bool:
    """Whether a node only stores its attribute as a tensor."""
    return node.op_type == CONSTANT[1] and node.domain in ("", "ai.onnx")


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor that `value` is known to be, without reading it; None where it is not known.

    Known are initializers, unless the caller may override them (a graph input with a default), outputs of Constant
    nodes, and small integers that shape inference found out.
    """
    if value is None or value.is_graph_input():
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or len(node.attributes) != 1 or not is_constant_node(node):
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref() or attribute.type in (ir.AttributeType.SPARSE_TENSOR,):
        return None
    if attribute.type is ir.AttributeType.TENSOR:
        tensor: ir.TensorProtocol = attribute.value
        return tensor
    return ir.convenience.get_const_tensor(value)


def constant(value: ir.Value | None) -> Array | None:
    """Return what `value` is known to be, or None. The array may be a read-only view of a file."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def stored_array(value: ir.Value | None) -> Array:
    """Return the elements of an initializer, which the caller knows to be one."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def as_tensor(array: Array, name: str | None = None) -> ir.TensorProtocol:
    """Return `array` as a tensor of the IR; arrays of objects are strings."""
    if array.dtype.kind in "OSU":
        flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
        return ir.StringTensor(flat, shape=ir.Shape(array.shape), name=name)
    return ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)


def tensor_bytes(tensor: ir.TensorProtocol | None) -> int:
    """Return how many bytes a tensor takes; of strings, their letters. Nothing is read."""
    if tensor is None:
        return 0
    if tensor.dtype.is_string():
        return sum(len(item) for item in tensor.string_data()) if isinstance(tensor, ir.StringTensor) else tensor.size
    return int(tensor.nbytes)


def static_bytes(value: ir.Value) -> int | None:
    """Return how many bytes `value` takes, where its type and shape are known."""
    dtype, shape = value.dtype, value.shape
    if dtype is None or dtype.is_string() or shape is None:
        return None
    count = 1
    for size in shape:
        if not isinstance(size, int) or size < 0:
            return None
        count *= size
    return -(-count * max(1, dtype.bitwidth) // 8)
