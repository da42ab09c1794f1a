"""Values of attention: what they are averaged to is what they are split for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from blinding import lost_seeing_and_blind
from onnxslim.passes.lowrank import Lowrank
from onnxslim.passes.lowrank.layer import find_layers
from onnxslim.passes.lowrank.mixing import Mixture, averaged, find_mixtures
from sample_models import from_text

from onnxslim.graph.shapes import infer_shapes
from onnxslim.runner.session import Session

GENERATOR = np.random.default_rng(0)
HEADS, WIDTH, TIME = 2, 32, 6
CHANNELS = np.arange(HEADS * WIDTH).reshape(HEADS, WIDTH)

ATTENTION = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N,6,64] x, float[N,2,6,6] s, float v, float b, float o) => (float[N,6,64] y)
<int64[4] heads = {0, 0, 2, 32}, int64[3] flat = {0, 0, 64}> {
    p = MatMul (x, v) pb = Add (p, b) pr = Reshape (pb, heads) V = Transpose <perm=[0,2,1,3]> (pr)
    a = Softmax <axis=-1> (s) z = MatMul (a, V) zt = Transpose <perm=[0,2,1,3]> (z) zr = Reshape (zt, flat)
    y = MatMul (zr, o)
}"""


def weight(*shape: int) -> np.ndarray:
    return (GENERATOR.normal(size=shape) / 8).astype(np.float32)


def attention(text: str = ATTENTION) -> ir.Model:
    made = from_text(text, v=weight(64, 64), b=weight(64), o=weight(64, 64))
    infer_shapes(made)
    return made


def mixtures(of: ir.Model) -> dict[str, Mixture]:
    return find_mixtures(of.graph, find_layers(of, (), (), smallest=1)[0])


def test_heads_and_what_projects_them_are_found() -> None:
    of = attention()
    (mixture,) = mixtures(of).values()
    assert (mixture.weights, mixture.product) == ("a", "z")
    channels = mixture.channels((3, TIME, 64), (3, HEADS, TIME, TIME), Session.of)
    np.testing.assert_array_equal(channels, CHANNELS)
    projection = of.graph.initializers["o"].const_value.numpy().astype(np.float64)  # type: ignore[union-attr]
    whole = projection @ projection.T
    metric = mixture.metric(CHANNELS, 0.25, Session.of)
    assert metric is not None
    np.testing.assert_allclose(metric[:32, :32], whole[:32, :32])
    np.testing.assert_allclose(metric[:32, 32:], whole[:32, 32:] / 4)


def test_heads_that_share_weights_are_not_told_apart() -> None:
    (mixture,) = mixtures(attention()).values()
    assert mixture.channels((3, TIME, 64), (3, 1, TIME, TIME), Session.of) is None


def test_the_product_is_what_the_layer_makes_of_the_averages() -> None:
    data, values = weight(3, TIME, 64), weight(64, 64)
    weights = GENERATOR.dirichlet(np.ones(TIME), size=(3, HEADS, TIME)).astype(np.float32)
    product = weights @ (data @ values).reshape(3, TIME, HEADS, WIDTH).transpose(0, 2, 1, 3)
    for channels, (inputs, outputs) in zip(CHANNELS, averaged(data, weights, product), strict=True):
        np.testing.assert_allclose(inputs @ values[:, channels], outputs, atol=1e-5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a = Softmax <axis=-1> (s)", "a = Sigmoid (s)"),  # they do not sum to 1
        ("a = Softmax <axis=-1> (s)", "a = Softmax <axis=2> (s)"),
        ("V = Transpose <perm=[0,2,1,3]> (pr)", "pv = Relu (pr) V = Transpose <perm=[0,2,1,3]> (pv)"),
        ("z = MatMul (a, V)", "z = MatMul (V, a)"),
    ],
)
def test_where_nothing_is_averaged(before: str, after: str) -> None:
    text = ATTENTION.replace(before, after)
    assert text != ATTENTION
    made = from_text(text, v=weight(64, 64), b=weight(64), o=weight(64, 64))
    assert not mixtures(made)


def test_values_that_are_split_for_their_averages_lose_less() -> None:
    text = ATTENTION.replace("float[N,2,6,6] s, ", "").replace(
        "a = Softmax", "q = Reshape (x, heads) k = Transpose <perm=[0,2,3,1]> (q) u = Transpose <perm=[0,2,1,3]> (q) "
        "s = MatMul (u, k) a = Softmax"
    )  # fmt: skip
    before = attention(text)
    common = np.repeat(weight(260, 1, 64), TIME, axis=1) @ weight(64, 64)  # what all places have in common
    own = GENERATOR.normal(size=(260, TIME, 64)) * 0.3
    data = (common + own).astype(np.float32)
    step = Lowrank(rank=0.3, align=4, include=("v",))
    seeing, blind = lost_seeing_and_blind(before, step, "find_mixtures", data[:200], data[200:])
    assert seeing < 0.95 * blind
