"""Every row of the table proves itself: permuting a factor wherever it occurs permutes the output with it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from onnxslim.errors import RuleError
from onnxslim.ops.signatures import Operand, Signature, read_signatures, signatures

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
    "RotaryEmbedding": {"e": 8, "p": 6},
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
    "Col2Im": {1: lambda *_: np.array([3, 3]), 2: lambda *_: np.array([2, 2])},
}
CONSTANT = {"DynamicQuantizeLSTM"}
"""Ops whose kernels want their weights as initializers."""
UNPROVABLE = {
    "GemmFastGelu": "ONNX Runtime has it on other providers only; the row is that of MatMul and a bias",
    "com.microsoft::GroupNorm": "ONNX Runtime has it on other providers only; the row is GroupNormalization's",
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


def special(table: dict[str, object], row: Signature, otherwise: object) -> object:
    """Return what a table says of an op: by its domain and name, or by its name."""
    return table.get("::".join(filter(None, row.op)), table.get(row.op[1], otherwise))


def run(row: Signature, sizes: dict[str, int], feeds: list[np.ndarray | None]) -> list[np.ndarray]:
    domain, op_type = row.op
    attributes: dict[str, object] = {**SETTINGS.get(op_type, {}), **dict(row.where)}
    attributes.pop("qkv_hidden_sizes", None)
    if sizes.get("d") == 2 and "hidden_size" in dict(row.binds):
        attributes["direction"] = "bidirectional"
    attributes |= {name: math.prod(sizes[factor] for factor in factors) for name, factors in row.binds}
    feeds = feeds[: max(at for at, feed in enumerate(feeds) if feed is not None) + 1]
    names = ["" if feed is None else f"x{at}" for at, feed in enumerate(feeds)]
    without = special(WITHOUT, row, ())
    outputs = ["" if each.ignored or at in without else f"y{at}" for at, each in enumerate(row.outputs)]
    weights = {name: feed for name, feed in zip(names[1:], feeds[1:], strict=True) if op_type in CONSTANT and name}
    held = weights.__contains__
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, names, outputs, domain=domain, **attributes)],
        "g",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(feed.dtype), feed.shape)
            for name, feed in zip(names, feeds, strict=True)
            if feed is not None and not held(name)
        ],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs if name],
        [onnx.numpy_helper.from_array(feed, name) for name, feed in weights.items() if feed is not None],
    )
    # The oldest operator set that has the op: kernels for the newest come late.
    opset = next(age for age in range(21, 99) if domain or not onnx.defs.has(op_type) or onnx.defs.has(op_type, age))
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    fed = {name: feed for name, feed in zip(names, feeds, strict=True) if feed is not None and not held(name)}
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(None, fed)
    except Exception:  # no kernel: onnxruntime has no narrower class to catch
        if domain:
            raise
        return ReferenceEvaluator(model).run(None, fed)


def prove(row: Signature, generator: np.random.Generator) -> dict[str, bool]:
    """Return for each factor that may be cut whether permuting it everywhere permutes the outputs."""
    op_type = row.op[1]
    sizes: dict[str, int] = {}
    for operand in (*row.inputs, *row.outputs):
        for dimension in operand.dimensions:
            for factor in dimension.factors:
                for name in [f"{factor}{place}" for place in (2, 1)] if dimension.ellipsis else [factor]:
                    sizes.setdefault(name, int(generator.integers(2, 5)) + 3 * (factor == "s") if factor != "k" else 2)
    if op_type in ("LSTM", "GRU", "RNN"):
        sizes["d"] = 1
    for factor, size in special(SIZES, row, {}).items():  # type: ignore[attr-defined]
        sizes |= {factor: size} if factor in sizes else {}
    if {"u", "p", "t"} <= sizes.keys():
        sizes["u"] = sizes["p"] + sizes["t"]
    blocks = {name for name, factor in row.binds if name == "blocksize"}
    for _, (factor,) in row.binds if blocks else ():
        sizes |= {factor: 2, "s2": 6, "s1": 4}
    types = special(TYPES, row, ("float32",) * len(row.inputs))[: len(row.inputs)]  # type: ignore[index]
    feeds: list[np.ndarray | None] = []
    places = special(PLACES, row, {})
    for at, (operand, kind) in enumerate(zip(row.inputs, types, strict=True)):
        kind, _, scalar = kind.partition(" ")
        size = [] if operand.ignored or scalar else shape(operand, sizes)
        if at in places and kind and not operand.absent:  # type: ignore[operator]
            feeds.append(np.asarray(places[at](size, sizes), kind))  # type: ignore[index]
        elif not kind or operand.absent:
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
    without = special(WITHOUT, row, ())
    asked = [each for at, each in enumerate(row.outputs) if not each.ignored and at not in without]  # type: ignore[operator]
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
            for got, old, operand in zip(after, before, asked, strict=True)
        )
    return verdict


def identify(row: Signature) -> str:
    return "::".join(filter(None, row.op)) + "".join(f" {name}={value}" for name, value in row.where)


def row_letters(row: Signature) -> set[str]:
    """Return the factors that may be cut."""
    operands = (*row.inputs, *row.outputs)
    return {f for each in operands for dimension in each.dimensions for f in dimension.factors} - row.fixed


@pytest.mark.parametrize("row", ROWS, ids=identify)
def test_permuting_a_factor_everywhere_permutes_the_output(row: Signature) -> None:
    if reason := special(UNPROVABLE, row, ""):
        pytest.skip(str(reason))
    if not row_letters(row):
        pytest.skip("the row freezes everything")
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
        "RotaryEmbedding<interleaved=0, rotary_embedding_dim=0> X[n, h, !s, e*2] C[!p, e] S[!p, e] I[n, !s]"
        " -> Y[n, h, !s, e*2]",
        "Attention<is_causal=0> Q[n, r*j, s, d] K[n, j, t, d] V[n, j, t, v] M{n, r*j, s, t} -> Y[n, r*j, s, v]",
        "Attention<is_causal=1> Q[n, j, s, d] K[n, j, t, d] V[n, j, t, v] M{n, j, s, t} -> Y[n, j, s, v]",
        "com.microsoft::Attention<num_heads=h> X[n, !s, i] W[i, 3*d*h] B[3*d*h] _ _ M{n, h, !s, !t} -> Y[n, !s, d*h]",
        "com.microsoft::MatMulNBits<K=k, N=o> A[...b, m, !k] B[o, !q, !p] S[!q*o] Z[o*!z] _ C[o] -> Y[...b, m, o]",
        "com.microsoft::SkipLayerNormalization X[...b, ~c] S{...b, ~c} g[~c] b[~c] i[~c] -> Y[...b, ~c] _ _ Z[~c]",
        "Trilu X[...b, m, k] _ -> Y[...b, m, k]",
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
            known = domain == "com.microsoft" or onnx.defs.has(op_type) or op_type == "SimplifiedLayerNormalization"
            assert known, op_type
