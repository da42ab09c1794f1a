"""How much memory and work it takes to evaluate nodes, as far as that can be told before they run.

A few bytes of a file can stand for any amount of both: a string that is doubled thirty times, a shape of large sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.constants import static_bytes

PART_BYTES = 1 << 30
"""What all values of a part that is evaluated at once may take together."""

LOOKED_BYTES = 16 << 20
"""What they may take where their sizes are known only as they are made."""

MOST_MACS = 10**10
"""Multiply-accumulates of a node that is evaluated: a second or so."""

CONTRACTIONS = frozenset(
    {
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "Einsum",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
    }
)

BY_VALUES = frozenset(
    {"Compress", "ConstantOfShape", "Expand", "EyeLike", "NonZero", "OneHot", "Pad", "Range", "Resize", "Tile"}
)
"""Ops whose outputs are as large as the values of their inputs say."""

Array = npt.NDArray[Any]


def known_bytes(nodes: Sequence[ir.Node]) -> int:
    """Return the bytes of all values that `nodes` make, as far as their shapes are known."""
    return sum(static_bytes(output) or 0 for node in nodes for output in node.outputs)


def known_macs(node: ir.Node) -> int:
    """Return about how many multiply-accumulates a node takes, 0 where it has none or shapes are not known.

    A product of matrices of M x K and K x N takes M K N, the root of the product of the sizes of the three matrices.
    """
    if node.domain or node.op_type not in CONTRACTIONS or len(node.inputs) < 2:
        return 0
    values = (*node.inputs[:2], node.outputs[0])
    bits = [(value, value.dtype.bitwidth if value.dtype else 0) for value in values if value is not None]
    sizes = [(static_bytes(value) or 0) * 8 // width for value, width in bits if width]
    return math.isqrt(math.prod(sizes)) if len(sizes) == 3 else 0


def must_be_looked_at(nodes: Sequence[ir.Node]) -> bool:
    """Whether some values of `nodes` are as large as other values say, or hold strings, and shapes do not tell."""
    return any(
        static_bytes(output) is None
        and (node.op_type in BY_VALUES or output.dtype is ir.DataType.STRING or "String" in node.op_type)
        for node in nodes
        for output in node.outputs
    )


def most_bytes(node: ir.Node, inputs: Sequence[Array | None]) -> float:
    """Return how many bytes an output of `node` takes at most, given its inputs; infinity where nobody can tell."""
    given = [array for array in inputs if array is not None]
    width = max([8, *(_width(array) for array in given)])
    if any(array.dtype.kind in "OSU" for array in given):
        width = sum(_width(array) for array in given)
    try:
        return max(_elements(node.op_type, given), 0.0) * width
    except (ValueError, IndexError, ZeroDivisionError, OverflowError):
        return math.inf


def _width(array: Array) -> int:
    """Return the bytes of an element; of strings, the letters of the longest."""
    if array.dtype.kind in "OSU":
        return max((len(text) for text in array.reshape(-1).tolist()), default=0)
    return array.dtype.itemsize


def _elements(op_type: str, given: Sequence[Array]) -> float:
    match op_type:
        case "ConstantOfShape":
            return _product(given[0])
        case "Expand":
            return math.prod(map(float, np.broadcast_shapes(given[0].shape, tuple(map(int, given[1])))))
        case "Tile":
            return given[0].size * _product(given[1])
        case "Range":
            start, limit, delta = (float(array.reshape(-1)[0]) for array in given)
            return math.ceil((limit - start) / delta)
        case "OneHot":
            return given[0].size * float(given[1].reshape(-1)[0])
        case "NonZero":
            return float(given[0].size * max(1, given[0].ndim))
        case "Pad" | "Resize" | "Upsample":
            return _padded_or_scaled(op_type, given)
    try:
        return float(math.prod(np.broadcast_shapes(*(array.shape for array in given))))
    except ValueError:
        return math.prod(float(max(1, array.size)) for array in given)


def _padded_or_scaled(op_type: str, given: Sequence[Array]) -> float:
    shape, told = given[0].shape, given[-1].reshape(-1) if op_type != "Pad" else given[1].reshape(-1)
    if op_type == "Pad":
        pads = np.maximum(told.astype(np.float64), 0)
        return math.prod(float(size) + 2 * float(pads.max(initial=0)) for size in shape)
    return _product(told) if told.dtype.kind == "i" else given[0].size * _product(told)


def _product(array: Array) -> float:
    return math.prod(map(float, array.reshape(-1).tolist()))
