"""Defaults that no schema can say, because they hang on the node: a Transpose without `perm` reverses the axes.

ONNX's schemas declare the defaults that are the same for every node (`onnxslim.ops.binding.attribute` gives these). For
the others they say in words what the op takes; `COMPUTED` is these words. Source: docs/Operators.md of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import onnx_ir as ir

Ints = tuple[int, ...]


def computed_default(node: ir.Node, name: str) -> Ints | None:
    """Return what `node` takes for an attribute that it leaves out and that has no default in its schema.

    Args:
        node: The node, with the shapes of its inputs as far as they are known.
        name: The attribute.

    Returns:
        Integers; None where there is no such default, or the ranks or sizes that it hangs on are not known.
    """
    compute = COMPUTED.get((node.op_type, name)) if not node.domain else None
    return None if compute is None else compute(node)


def is_usual(domain: str, op_type: str, name: str, numbers: Sequence[int]) -> bool:
    """Whether the computed default of an attribute repeats one number, and `numbers` are these.

    Such an attribute may be left out whatever the rank is.
    """
    repeats = REPEATED.get((op_type, name)) if not domain else None
    return repeats is not None and set(numbers) <= {repeats}


def _shape(node: ir.Node, index: int) -> tuple[int | None, ...] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    if value.shape is None:
        return None if value.const_value is None else tuple(value.const_value.shape.numpy())
    return tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)


def _all_axes(node: ir.Node) -> Ints | None:
    shape = _shape(node, 0)
    return None if shape is None else tuple(range(len(shape)))


def _reversed_axes(node: ir.Node) -> Ints | None:
    axes = _all_axes(node)
    return None if axes is None else axes[::-1]


def _axes_of_size_1(node: ir.Node) -> Ints | None:
    shape = _shape(node, 0)
    return None if shape is None or None in shape else tuple(axis for axis, size in enumerate(shape) if size == 1)


def _window(weight: int) -> Callable[[ir.Node], Ints | None]:
    """Return what says the window that a weight is made for; its first two axes are channels."""

    def window(node: ir.Node) -> Ints | None:
        shape = _shape(node, weight)
        return None if shape is None or None in shape else tuple(size for size in shape[2:] if size is not None)

    return window


def _repeated(number: int, times: int) -> Callable[[ir.Node], Ints | None]:
    """Return what says a number `times` for each spatial axis; nothing where the op finds its padding by itself."""

    def repeated(node: ir.Node) -> Ints | None:
        auto = node.attributes.get("auto_pad")
        if auto is not None and (auto.is_ref() or auto.as_string() not in ("NOTSET", "VALID")):
            return None
        kernel = node.attributes.get("kernel_shape")
        if kernel is not None and not kernel.is_ref():
            return (number,) * (times * len(kernel.as_ints()))
        shape = _shape(node, 0)
        return None if shape is None or len(shape) < 2 else (number,) * (times * (len(shape) - 2))

    return repeated


_CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv")
_POOLS = ("AveragePool", "MaxPool", "LpPool")
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

REPEATED: Mapping[tuple[str, str], int] = MappingProxyType(
    {
        **{(op, "strides"): 1 for op in (*_CONVOLUTIONS, *_POOLS, "MaxUnpool")},
        **{(op, "dilations"): 1 for op in (*_CONVOLUTIONS, *_POOLS)},
        **{(op, "pads"): 0 for op in (*_CONVOLUTIONS, *_POOLS, "MaxUnpool")},
        ("ConvTranspose", "output_padding"): 0,
    }
)
"""(op, attribute) -> the number that its default repeats for each spatial axis; for `pads`, for each of both ends."""

COMPUTED: Mapping[tuple[str, str], Callable[[ir.Node], Ints | None]] = MappingProxyType(
    {
        ("Transpose", "perm"): _reversed_axes,
        ("Squeeze", "axes"): _axes_of_size_1,
        ("Resize", "axes"): _all_axes,
        **{(f"Reduce{kind}", "axes"): _all_axes for kind in _REDUCTIONS},
        **{(op, "kernel_shape"): _window(3 if op == "QLinearConv" else 1) for op in _CONVOLUTIONS},
        **{(op, name): _repeated(number, 2 if name == "pads" else 1) for (op, name), number in REPEATED.items()},
    }
)
"""(op, attribute) -> what computes its default for a node. Operators of ONNX alone: others have words of their own."""
