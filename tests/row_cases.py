"""Draws nodes of ops that have a row in ops.axes, of any sizes of its factors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from op_cases import Array, Case

from onnxslim.ops.signatures import Operand, OpName, Signature

TYPES = {
    # Operands that are no part of the signature but must be given, and element types other than float32.
    "ConvInteger": ("uint8", "uint8", "uint8", "uint8 scalar"),
    "QLinearConv": ("uint8", "float32", "uint8", "int8", "float32", "int8", "float32", "uint8", "int32"),
    "MatMulInteger": ("uint8", "uint8", "uint8", "uint8 scalar"),
    "QLinearMatMul": ("uint8", "float32", "uint8", "uint8", "float32 scalar", "uint8 scalar", "float32", "uint8"),
    "LSTM": ("float32",) * 4 + ("",) + ("float32",) * 3,
    "GRU": ("float32",) * 4 + ("", "float32"),
    "RNN": ("float32",) * 4 + ("", "float32"),
    "Attention": ("float32", "float32", "float32", ""),
    "MatMulIntegerToFloat": ("uint8", "uint8", "float32", "float32 scalar", "uint8", "uint8 scalar", "float32"),
    "DynamicQuantizeMatMul": ("float32", "uint8", "float32 scalar", "uint8 scalar", "float32"),
    "QGemm": ("uint8", "float32", "uint8", "uint8", "float32", "uint8", "int32", "float32", "uint8"),
    "QLinearGlobalAveragePool": ("uint8", "float32", "uint8", "float32", "uint8"),
}
SETTINGS = {
    "MaxPool": {"kernel_shape": [2, 2]},
    "AveragePool": {"kernel_shape": [2, 2]},
    "LpPool": {"kernel_shape": [2, 2]},
}
SETTINGS |= {
    "FusedConv": {"activation": "Relu"},
    "FusedGemm": {"activation": "Relu"},
    "LRN": {"size": 3},
    "MaxRoiPool": {"pooled_shape": [2, 2]},
    "NhwcMaxPool": {"kernel_shape": [2, 2]},
    "QLinearAveragePool": {"kernel_shape": [2, 2]},
    "MatMulNBits": {"bits": 4, "block_size": 16},
    "EmbedLayerNormalization": {"epsilon": 1e-5},
}
TYPES |= {
    "Attention": ("float32",) * 6 + ("",),
    "com.microsoft::Attention": ("float32", "float32", "float32", "", "", "float32"),
    "QAttention": ("uint8", "uint8", "float32", "float32", "float32", "", "uint8", "uint8", ""),
    "MultiHeadAttention": ("float32",) * 4 + ("", "float32", "float32", "float32", "", ""),
    "GroupQueryAttention": ("float32",) * 5 + ("int32", "int32", "", "", "", "float32", "float32"),
    "RotaryEmbedding": ("float32", "float32", "float32", "int64"),
    "com.microsoft::RotaryEmbedding": ("float32", "int64", "float32", "float32"),
    "EmbedLayerNormalization": ("int32", "int32") + ("float32",) * 5 + ("", ""),
    "RoiAlign": ("float32", "float32", "int64"),
    "ReverseSequence": ("float32", "int64"),
    "Trilu": ("float32", ""),
    "CumSum": ("float32", "int64"),
    "Col2Im": ("float32", "int64", "int64"),
    "NhwcMaxPool": ("uint8",),
    "QLinearAveragePool": ("uint8", "float32", "uint8", "float32", "uint8"),
    "MatMulNBits": ("float32", "uint8", "float32", "uint8", "", "float32"),
    "DynamicQuantizeLSTM": ("float32", "uint8", "uint8", "float32", "", "float32", "float32", "float32")
    + ("float32", "uint8") * 2,
}
WITHOUT = {"com.microsoft::Attention": (1,), "QAttention": (1,)}
"""Outputs that are not asked for: ONNX Runtime makes them only where the inputs before them are given."""
SIZES = {
    "MatMulNBits": {"k": 32, "q": 2, "p": 8, "z": 1},
    "DeformConv": {"p": 8, "q": 4, "k2": 2, "k1": 2, "s2": 5, "s1": 4, "t2": 4, "t1": 3},
    "Col2Im": {"k": 4, "l": 4},
    "MaxRoiPool": {"q": 5},
    "RoiAlign": {"q": 4},
    "GridSample": {"q": 2},
    "GroupQueryAttention": {"d": 8, "s": 3, "p": 0, "u": 3},
    "com.microsoft::Attention": {"t": 3, "s": 3},
    "RotaryEmbedding": {"e": 8, "p": 8},
    "EmbedLayerNormalization": {"w": 4, "p": 9, "t": 3},
    "FusedConv": {"s2": 5, "s1": 4, "t2": 4, "t1": 3},
    "LSTM": {"d": 2},
    "DynamicQuantizeLSTM": {"d": 1},
}
PLACES = {
    # Operands that hold places, lengths or shapes, by the name of the operand or its number.
    "DynamicQuantizeLSTM": {at: lambda shape, _: np.ones(shape) for at in (9, 11)},  # it wants them equal
    "RoiAlign": {2: lambda shape, _: np.zeros(shape)},
    "MaxRoiPool": {
        1: lambda shape, _: np.tile([0, 0, 0, 2, 2], (shape[0], 1)) * np.arange(1, shape[0] + 1)[:, None] / 4
    },
    "ReverseSequence": {1: lambda shape, _: np.arange(shape[0]) % 2 + 1},
    "RotaryEmbedding": {3: lambda shape, _: np.arange(math.prod(shape)).reshape(shape) % 5},
    "com.microsoft::RotaryEmbedding": {
        1: lambda _, sizes: np.arange(sizes["n"] * sizes["s"]).reshape(sizes["n"], -1) % 5
    },
    "EmbedLayerNormalization": {at: lambda shape, _: np.arange(math.prod(shape)).reshape(shape) % 2 for at in (0, 1)},
    "GroupQueryAttention": {
        5: lambda _, sizes: np.full(sizes["n"], sizes["s"] - 1),
        6: lambda _, sizes: np.array(sizes["s"]),
    },
    "CumSum": {1: lambda *_: np.array(0)},
    "Col2Im": {1: lambda *_: np.array([3, 3]), 2: lambda *_: np.array([2, 2])},
}


def special(table: dict[str, Any], op: OpName, otherwise: Any) -> Any:
    """Return what a table says of an op: by its domain and name, or by its name."""
    return table.get("::".join(filter(None, op)), table.get(op[1], otherwise))


def _shape(operand: Operand, sizes: dict[str, int]) -> list[int]:
    result: list[int] = []
    for dimension in operand.dimensions:
        if dimension.ellipsis:
            result += [sizes[f"{dimension.factors[0]}{place}"] for place in (2, 1)]
        else:
            result.append(math.prod(int(each) if each.isdigit() else sizes[each] for each in dimension.factors))
    return result


def _sizes(row: Signature, random: np.random.Generator, equal: int) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for operand in (*row.inputs, *row.outputs):
        for dimension in operand.dimensions:
            for factor in dimension.factors:
                for name in [f"{factor}{place}" for place in (2, 1)] if dimension.ellipsis else [factor]:
                    size = equal or int(random.integers(2, 5))
                    sizes.setdefault(
                        name, 2 if factor == "k" and not equal else size + 3 * (factor == "s" and not equal)
                    )
    if row.op[1] in ("LSTM", "GRU", "RNN"):
        sizes["d"] = 1
    for factor, size in special(SIZES, row.op, {}).items():
        sizes |= {factor: size} if factor in sizes else {}
    if {"u", "p", "t"} <= sizes.keys():
        sizes["u"] = sizes["p"] + sizes["t"]
    blocks = {name for name, factor in row.binds if name == "blocksize"}
    for _, (factor,) in row.binds if blocks else ():
        sizes |= {factor: 2, "s2": 6, "s1": 4}
    return sizes


def row_case(row: Signature, random: np.random.Generator, equal: int = 0) -> Case:
    """Return a node that a row fits.

    Args:
        row: A row that holds.
        random: Draws sizes and numbers.
        equal: How long all factors are, so that other rows fit as well; 0: of any length.
    """
    op_type = row.op[1]
    sizes = _sizes(row, random, equal)
    types = special(TYPES, row.op, ("float32",) * len(row.inputs))[: len(row.inputs)]
    places = special(PLACES, row.op, {})
    operands: list[Array | None] = []
    for at, (operand, told) in enumerate(zip(row.inputs, types, strict=True)):
        kind, _, scalar = told.partition(" ")
        shape = [] if operand.ignored or scalar else _shape(operand, sizes)
        if not kind or operand.absent:
            operands.append(None)
        elif at in places:
            operands.append(np.asarray(places[at](shape, sizes), kind))
        elif kind == "float32":
            operands.append(np.asarray(random.random(shape) + 0.1, np.float32))
        else:
            numbers = random.integers(0 if operand.ignored else 1, 3 if "z" in operand.name else 9, shape)
            operands.append(np.asarray(numbers, kind))
    if op_type == "QLinearConv":
        operands[5] = np.zeros_like(operands[5])  # ONNX Runtime wants symmetric weights per channel
    while operands[-1] is None:
        operands.pop()
    attributes: dict[str, Any] = {**SETTINGS.get(op_type, {}), **dict(row.where)}
    attributes.pop("qkv_hidden_sizes", None)
    if sizes.get("d") == 2 and "hidden_size" in dict(row.binds):
        attributes["direction"] = "bidirectional"
    attributes |= {name: math.prod(sizes[factor] for factor in factors) for name, factors in row.binds}
    without = special(WITHOUT, row.op, ())
    outputs = tuple(not operand.ignored and at not in without for at, operand in enumerate(row.outputs))
    if op_type in CONSTANT:
        return Case(row.op, operands, attributes, frozenset(range(1, len(operands))), outputs, stored=True)
    return Case(row.op, operands, attributes, frozenset(at for at in places if isinstance(at, int)), outputs)


def ones(row: Signature, case: Case) -> Case:
    """Return a node that adds up ones, as many as it multiplies: its outputs add up to its MACs."""
    operands: list[Array | None] = []
    for operand, array in zip(row.inputs, case.operands, strict=False):
        multiplied = any(factor not in row.reaching for dimension in operand.dimensions for factor in dimension.factors)
        scales = operand.name in ("ws", "bs") or (operand.ignored and array is not None and array.dtype == np.float32)
        value = 1 if multiplied or scales else 0
        operands.append(None if array is None else np.full_like(array, value))
    return Case(case.op, operands, case.attributes, case.fixed, case.outputs)


CONSTANT = {"DynamicQuantizeLSTM"}
"""Ops whose kernels want their weights as initializers."""
