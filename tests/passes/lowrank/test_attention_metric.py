"""Queries and keys: how much errors of one matter by what the other is, and when nothing is known of that."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from mutate_rows import lost_seeing_and_blind
from onnxslim.passes.lowrank import Lowrank
from onnxslim.passes.lowrank.attention_metric import AttentionProduct, find_comparisons
from onnxslim.passes.lowrank.layer import find_layers
from sample_models import from_text

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)
HEADS, WIDTH, TIME = 2, 32, 5

ATTENTION = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N,5,64] x, float q, float k, float b, float c) => (float[N,2,5,5] y)
<int64[4] heads = {0, 0, 2, 32}, float scale = {4}> {
    p = MatMul (x, q) pb = Add (p, b) pr = Reshape (pb, heads) Q = Transpose <perm=[0,2,1,3]> (pr)
    o = MatMul (x, k) oc = Add (o, c) or = Reshape (oc, heads) os = Mul (or, scale)
    K = Transpose <perm=[0,2,3,1]> (os)
    z = MatMul (Q, K) y = Softmax <axis=-1> (z)
}"""


def weight(*shape: int) -> np.ndarray:
    return (GENERATOR.normal(size=shape) / 8).astype(np.float32)


def attention(text: str = ATTENTION) -> ir.Model:
    keys = weight(64, 64) * np.where(np.arange(64) % 32 < 8, 1, 0.02).astype(np.float32)
    made = from_text(text, q=weight(64, 64), k=keys, b=weight(64), c=weight(64) + np.float32(3))
    infer_shapes(made)
    return made


def comparisons(of: ir.Model) -> dict[str, AttentionProduct]:
    return find_comparisons(of.graph, find_layers(of, smallest=1)[0])


def test_each_is_weighed_by_the_other() -> None:
    queries, keys = comparisons(attention()).values()
    assert (queries.left, keys.left) == (True, False)
    assert (queries.other, keys.other) == ("K", "Q")
    result = weight(3, TIME, HEADS * WIDTH)
    for comparison in (queries, keys):
        other = weight(3, HEADS, *((WIDTH, TIME) if comparison.left else (TIME, WIDTH))) + np.float32(1)
        wanted = np.zeros((64, 64))
        for head in range(HEADS):
            block = slice(head * WIDTH, (head + 1) * WIDTH)
            rows = other[:, head].astype(np.float64)
            if comparison.left:
                rows = (rows - rows.mean(axis=-1, keepdims=True)).transpose(0, 2, 1)
            rows = rows.reshape(-1, WIDTH) * (1 if comparison.left else 4)
            wanted[block, block] = rows.T @ rows
        np.testing.assert_allclose(comparison.moment(result, other, Session.of), wanted, rtol=1e-5, atol=1e-4)


def test_without_a_softmax_the_mean_counts() -> None:
    queries, _ = comparisons(attention(ATTENTION.replace("Softmax <axis=-1>", "Relu"))).values()
    assert not queries.centred
    other = np.ones((1, HEADS, WIDTH, TIME), np.float32)
    total = queries.moment(weight(1, TIME, 64), other, Session.of)
    np.testing.assert_allclose(total[:WIDTH, :WIDTH], TIME, atol=1e-4)
    assert not total[:WIDTH, WIDTH:].any()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("pb = Add (p, b)", "pa = Add (p, b) pb = Softmax (pa)"),
        ("pb = Add (p, b)", "pa = Add (p, b) pb = Add (pa, x)"),
        ("z = MatMul (Q, K)", "w = Relu (p) z = MatMul (Q, K)"),
    ],
)
def test_where_nothing_is_known(before: str, after: str) -> None:
    assert [each.other for each in comparisons(attention(ATTENTION.replace(before, after))).values()] == ["Q"]


def test_queries_that_are_split_for_the_keys_lose_less() -> None:
    x = weight(300, TIME, 64) * 8
    step = Lowrank(rank=0.3, align=4, include=("q",))
    seeing, blind = lost_seeing_and_blind(attention(), step, "find_comparisons", x[:200], x[200:])
    assert seeing < 0.8 * blind


def test_what_is_multiplied_by_nothing_says_nothing() -> None:
    _, keys = comparisons(attention(ATTENTION.replace("scale = {4}", "scale = {0}"))).values()
    total = keys.moment(weight(1, TIME, 64), weight(1, HEADS, TIME, WIDTH), Session.of)
    np.testing.assert_array_equal(total, np.eye(64))


def test_weights_of_places_are_nothing_that_values_are_compared_with() -> None:
    values = """w = Softmax <axis=-1> (z)
    m = MatMul (x, v) mr = Reshape (m, heads) V = Transpose <perm=[0,2,1,3]> (mr) y = MatMul (w, V)"""
    text = ATTENTION.replace("y = Softmax <axis=-1> (z)", values).replace("float c)", "float c, float v)")
    made = from_text(
        text.replace("float[N,2,5,5] y", "float[N,2,5,32] y"),
        **{name: weight(64, 64) for name in "qkv"},
        **{name: weight(64) for name in "bc"},
    )
    infer_shapes(made)
    last = list(comparisons(made).values())[-1]
    assert last.other == "w"
    moment = last.moment(weight(1, TIME, 64), np.abs(weight(1, HEADS, TIME, TIME)), Session.of)
    np.testing.assert_array_equal(moment, np.eye(64))
