"""Every row of the table proves itself: permuting a factor wherever it occurs permutes the output with it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import pytest

from onnxslim.errors import RuleError
from onnxslim.graph.signatures import Operand, Signature, read_signatures, signatures

ROWS = [row for rows in signatures().values() for row in rows if not row.kind]
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
UNPROVABLE = {
    "MatMulNBits": "its weight is packed; nothing about it is declared but its size",
    "DynamicQuantizeLSTM": "its weights are packed; all that may be cut of it are inputs, as those of LSTM",
    "FusedConv": "ONNX Runtime runs it with an activation only; the row is that of Conv",
    "FusedGemm": "ONNX Runtime has it on other providers only; the rows are those of Gemm",
}
TOLERANCE = 1e-4
"""Sums of some tens of float32 products between 0 and 1, in another order."""


def shape(operand: Operand, sizes: dict[str, int]) -> list[int]:
    result: list[int] = []
    for dimension in operand.dimensions:
        if dimension.ellipsis:
            result += [sizes[f"{dimension.factors[0]}{place}"] for place in (2, 1)]
        else:
            result.append(math.prod(int(each) if each.isdigit() else sizes[each] for each in dimension.factors))
    return result


def permute(array: np.ndarray, operand: Operand, sizes: dict[str, int], letter: str, order: np.ndarray) -> np.ndarray:
    at = 0
    for dimension in operand.dimensions:
        letters = [f"{dimension.factors[0]}{place}" for place in (2, 1)] if dimension.ellipsis else [""]
        for name in letters:
            factors = (name,) if dimension.ellipsis else dimension.factors
            if letter in factors and array.ndim:
                whole = array.shape
                split = [int(each) if each.isdigit() else sizes[each] for each in factors]
                spread = array.reshape(*whole[:at], *split, *whole[at + 1 :])
                array = np.take(spread, order, axis=at + factors.index(letter)).reshape(whole)
            at += 1
    return array


def run(row: Signature, sizes: dict[str, int], feeds: list[np.ndarray | None]) -> list[np.ndarray]:
    domain, op_type = row.op
    attributes: dict[str, object] = {**SETTINGS.get(op_type, {}), **dict(row.where)}
    attributes |= {name: sizes[factor] for name, factor in row.binds}
    names = ["" if feed is None else f"x{at}" for at, feed in enumerate(feeds)]
    outputs = [f"y{at}" for at in range(len(row.outputs))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, names, outputs, domain=domain, **attributes)],
        "g",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(feed.dtype), feed.shape)
            for name, feed in zip(names, feeds, strict=True)
            if feed is not None
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    # The oldest operator set that has the op: kernels for the newest come late.
    opset = next(age for age in range(21, 99) if domain or onnx.defs.has(op_type, age))
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: feed for name, feed in zip(names, feeds, strict=True) if feed is not None})


def prove(row: Signature, generator: np.random.Generator) -> dict[str, bool]:
    """Return for each factor that may be cut whether permuting it everywhere permutes the outputs."""
    op_type = row.op[1]
    sizes: dict[str, int] = {}
    for operand in (*row.inputs, *row.outputs):
        for dimension in operand.dimensions:
            for factor in dimension.factors:
                for name in [f"{factor}{place}" for place in (2, 1)] if dimension.ellipsis else [factor]:
                    sizes.setdefault(name, int(generator.integers(2, 5)) + 3 * (factor == "s") if factor != "k" else 2)
    if "direction" not in SETTINGS and op_type in ("LSTM", "GRU", "RNN"):
        sizes["d"] = 1  # forward alone
    blocks = {name for name, factor in row.binds if name == "blocksize"}
    for _, factor in row.binds if blocks else ():
        sizes |= {factor: 2, "s2": 6, "s1": 4}
    types = TYPES.get(op_type, ("float32",) * len(row.inputs))
    feeds: list[np.ndarray | None] = []
    for operand, kind in zip(row.inputs, types, strict=True):
        kind, _, scalar = kind.partition(" ")
        size = [] if operand.ignored or scalar else shape(operand, sizes)
        if not kind:
            feeds.append(None)
        elif kind == "float32":
            feeds.append(np.asarray(generator.random(size) + 0.1, np.float32))
        else:
            feeds.append(
                np.asarray(generator.integers(0 if operand.ignored else 1, 3 if "z" in operand.name else 9, size), kind)
            )
    if op_type == "QLinearConv":
        feeds[5] = np.zeros_like(feeds[5])  # type: ignore[arg-type]  # ONNX Runtime wants symmetric weights per channel
    before = run(row, sizes, feeds)
    verdict: dict[str, bool] = {}
    for letter, size in sizes.items():
        if letter in row.fixed or letter[:-1] in row.fixed or size < 2:
            continue
        order = np.roll(np.arange(size), 1)
        after = run(
            row,
            sizes,
            [
                None if feed is None else permute(feed, operand, sizes, letter, order)
                for feed, operand in zip(feeds, row.inputs, strict=True)
            ],
        )
        verdict[letter] = all(
            np.allclose(got, permute(old, operand, sizes, letter, order), rtol=TOLERANCE, atol=TOLERANCE)
            for got, old, operand in zip(after, before, row.outputs, strict=True)
        )
    return verdict


def identify(row: Signature) -> str:
    return "::".join(filter(None, row.op)) + "".join(f" {name}={value}" for name, value in row.where)


@pytest.mark.parametrize("row", ROWS, ids=identify)
def test_permuting_a_factor_everywhere_permutes_the_output(row: Signature) -> None:
    if row.op[1] in UNPROVABLE:
        pytest.skip(UNPROVABLE[row.op[1]])
    verdict = prove(row, np.random.default_rng(0))
    assert verdict
    assert all(verdict.values()), verdict


@pytest.mark.parametrize(
    "text",
    [
        "Conv<group=g> X[n, i*g, ...s] W[o*g, i, ...k] B[o*g] -> Y[n, o*g, ...t]",
        "ConvTranspose<group=g> X[n, g*i, ...s] W[g*i, o, ...k] B[g*o] -> Y[n, o*g, ...t]",
        "Gemm<transA=0, transB=1> A[m, k] B[o, k] C{m, o} -> Y[o, m]",
        "GlobalAveragePool X[n, c, ...s] -> Y[n, c, ...s]",
        "MaxPool X[n, c, ...s] -> Y[n, c, ...s]",
        "LSTM<hidden_size=h, layout=0> X[!s, n, i] W[!d, h*4, i] R[!d, h*4, h] B[!d, 8*h] _ H[!d, n, h] C[!d, n, h]"
        " P[!d, 3*h] -> Y[!s, !d, n, h] Yh[!d, n, h] Yc[!d, n, h]",
        "CumSum X[...s] _ -> Y[...s]",
        "DepthToSpace<blocksize=p, blocksize=q, mode=DCR> X[n, c*!p*!q, ...s] -> Y[n, c, ...t]",
    ],
)
def test_a_wrong_row_does_not_prove(text: str) -> None:
    (row,) = next(iter(read_signatures(text, "wrong").values()))
    if row.op[1] == "CumSum":
        TYPES.setdefault("CumSum", ("float32", "int64"))
    try:
        verdict = prove(row, np.random.default_rng(0))
    except Exception:  # a row that ONNX Runtime refuses is found out as well
        return
    assert not all(verdict.values())


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("Conv X[n, c]", "neither"),
        ("Conv X[n, c] ; W[c] -> Y[n]", "unexpected"),
        ("Conv<group> X[n] -> Y[n]", "no attribute=value"),
        ("Conv X[n, c+d] -> Y[n]", "no axis"),
        ("Conv X[n] -> Y[n] : n*q", "'q'"),
    ],
)
def test_a_line_that_does_not_read_is_named(line: str, what: str) -> None:
    with pytest.raises(RuleError, match="does not read") as caught:
        read_signatures(f"# comment\n\n{line}\n", "some.axes")
    assert what in str(caught.value)
    assert "some.axes:3" in str(caught.value)


def test_every_op_of_the_table_is_one_that_onnx_or_onnxruntime_knows() -> None:
    for domain, op_type in signatures():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert domain == "com.microsoft" or onnx.defs.has(op_type), op_type
