"""Weights as matrices and back, and what stands behind a product: its bias, and the sum that it goes into."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import built, weight

from onnxslim.analysis.contraction import Contraction, contractions
from onnxslim.analysis.linear_layer import linear_layers
from onnxslim.model.edit import Editor


def only(text: str, **weights: np.ndarray) -> tuple[ir.Model, Contraction]:
    model = built(text, **weights)
    return model, next(contractions(model.graph))


@pytest.mark.parametrize(
    ("text", "shape", "sizes"),
    [
        ("y = Conv <group = 2> (x, w)", (6, 2, 3, 2), (2, 12, 3)),
        ("y = Conv <group = 4> (x, w)", (4, 1, 3, 3), (4, 9, 1)),
        ("y = ConvTranspose (x, w)", (4, 6, 2, 2), (1, 16, 6)),
        ("a = Reshape (x, s) y = MatMul (a, w)", (64, 6), (1, 64, 6)),
        ("a = Reshape (x, s) b = Transpose (a) y = MatMul (w, b)", (6, 64), (1, 64, 6)),
    ],
)
def test_weights_survive_the_way_there_and_back(text: str, shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    _, contraction = only(
        f"g (float[2,4,4,4] x) => (float y) {{ {text} }}", w=weight(*shape), s=np.array([2, 64], np.int64)
    )
    before = contraction.weight.const_value.numpy()
    assert contraction.blocks().shape == sizes
    assert (contraction.groups, contraction.outputs) == (sizes[0], sizes[0] * sizes[2])
    np.testing.assert_array_equal(contraction.from_blocks(contraction.blocks()), before)
    np.testing.assert_array_equal(contraction.as_weight(contraction.matrix()), before)


BIASES = {
    "its own": ("y = Gemm (x, w, b)", True, True),
    "none yet": ("y = Gemm (x, w)", True, True),
    "behind": ("a = MatMul (x, w) y = Add (b, a)", False, True),
    "scaled": ("y = Gemm <alpha = 2.0> (x, w, b)", True, False),
    "shared": ("a = Gemm (x, w, b) y = Mul (a, b)", True, False),
}


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_is_an_input_or_an_addition_behind(name: str) -> None:
    text, own, free = BIASES[name]
    model, contraction = only(f"g (float[N,4] x) => (float[N,3] y) {{ {text} }}", w=weight(4, 3), b=weight(3))
    bias = contraction.bias
    assert bias is not None
    assert (bias.own, bias.free) == (own, free)
    held = np.zeros(3) if name == "none yet" else model.graph.initializers["b"].const_value.numpy()
    np.testing.assert_array_equal(bias.vector, held)
    bias.write(Editor(model), held + 1)
    np.testing.assert_allclose(contraction.bias.vector, held + 1)
    if name == "shared":
        np.testing.assert_array_equal(model.graph.initializers["b"].const_value.numpy(), held)


NO_BIAS = {
    "read twice": "a = MatMul (x, w) c = Add (a, b) y = Add (a, c)",
    "a computed vector": "a = MatMul (x, w) c = Relu (b) y = Add (a, z)",
    "along another axis": "a = MatMul (w, x) y = Add (a, b)",
}


@pytest.mark.parametrize("name", NO_BIAS)
def test_what_is_no_bias(name: str) -> None:
    model, contraction = only(
        f"g (float[3,3] x, float[3] z) => (float[3,3] y) {{ {NO_BIAS[name]} }}", w=weight(3, 3), b=weight(3)
    )
    assert contraction.bias is None
    assert model.graph


def test_the_sum_of_a_residual_block_is_found_behind_the_bias() -> None:
    for text, found in (
        ("a = MatMul (x, w) c = Add (a, b) y = Add (c, x)", ("y", "x")),
        ("a = MatMul (x, w) c = Add (a, b) y = Sum (x, c)", ("y", "x")),
        ("a = MatMul (x, w) y = Add (x, a)", ("y", "x")),
        ("a = MatMul (x, w) c = Add (a, b) y = Sum (x, c, x)", None),
        ("a = MatMul (x, w) c = Add (a, b) d = Relu (c) y = Add (c, d)", None),
        ("a = MatMul (x, w) y = Mul (a, x)", None),
    ):
        _, contraction = only(f"g (float[N,3] x) => (float[N,3] y) {{ {text} }}", w=weight(3, 3), b=weight(3))
        residual = contraction.residual
        assert (None if residual is None else tuple(value.name for value in residual)) == found, text


def test_a_layer_is_a_weight_with_all_that_multiply_by_it() -> None:
    model = built(
        "g (float[N,3] x) => (float[N,3] y) { a = MatMul (x, w) b = MatMul (a, v) y = Gemm <transB = 1> (b, w) }",
        w=weight(3, 3), v=weight(3, 3),
    )  # fmt: skip
    layers = linear_layers(model.graph)
    assert [(layer.weight.name, len(layer.uses), layer.parameters) for layer in layers] == [("w", 2, 9), ("v", 1, 9)]
