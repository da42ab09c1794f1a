"""Sizes that weights fix: found for every op that has a signature, at any rank, in groups, and behind other ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.analysis.tied import tied_sizes
from onnxslim.data import synthetic_samples
from onnxslim.runtime.target import Target

CPU = Target("cpu", "test", "avx2", 1)
IMAGE = "float[batch,channels,height,width] x"


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def whole(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8)


def model(inputs: str, body: str, **weights: np.ndarray) -> ir.Model:
    names = ", ".join(
        f"{ {'f': 'float', 'u': 'uint8'}[w.dtype.kind] }[{','.join(map(str, w.shape))}] {name}"
        for name, w in weights.items()
    )
    text = f'<ir_version: 9, opset_import: ["" : 17]> g ({inputs}, {names}) => (y) {{ {body} }}'
    return from_text(text, **weights)


SCALES = {"s": weight(1)[0:1].reshape(()) ** 2, "z": np.array(3, np.uint8)}
CASES: dict[str, tuple[ir.Model, dict[int, int]]] = {
    "conv": (model(IMAGE, "y = Conv (x, w)", w=weight(4, 3, 3, 3)), {1: 3}),
    "conv of one axis": (model("float[B,C,L] x", "y = Conv (x, w)", w=weight(4, 5, 3)), {1: 5}),
    "conv of three axes": (model("float[B,C,D,H,W] x", "y = Conv (x, w)", w=weight(4, 2, 1, 3, 3)), {1: 2}),
    "conv in groups": (model(IMAGE, "y = Conv <group = 3> (x, w)", w=weight(6, 2, 3, 3)), {1: 6}),
    "depthwise": (model(IMAGE, "y = Conv <group = 7> (x, w)", w=weight(7, 1, 3, 3)), {1: 7}),
    "transposed conv": (model(IMAGE, "y = ConvTranspose (x, w)", w=weight(5, 3, 2, 2)), {1: 5}),
    "transposed conv in groups": (model(IMAGE, "y = ConvTranspose <group = 2> (x, w)", w=weight(6, 3, 2, 2)), {1: 6}),
    "product": (model("float[N,C] x", "y = MatMul (x, w)", w=weight(9, 4)), {1: 9}),
    "product of rank 4": (model("float[A,B,T,C] x", "y = MatMul (x, w)", w=weight(9, 4)), {3: 9}),
    "product from the left": (model("float[A,T,C] x", "y = MatMul (w, x)", w=weight(4, 9)), {1: 9}),
    "gemm": (model("float[N,C] x", "y = Gemm (x, w)", w=weight(11, 4)), {1: 11}),
    "gemm, transposed": (model("float[N,C] x", "y = Gemm <transB = 1> (x, w)", w=weight(4, 11)), {1: 11}),
    "gemm, both transposed": (
        model("float[C,N] x", "y = Gemm <transA = 1, transB = 1> (x, w)", w=weight(4, 11)),
        {0: 11},
    ),
    "normalization": (
        model(IMAGE, "y = BatchNormalization (x, w, w, w, v)", w=weight(6), v=weight(6) ** 2),
        {1: 6},
    ),
    "layer normalization": (model("float[N,T,C] x", "y = LayerNormalization (x, w)", w=weight(10)), {2: 10}),
    "sum with a vector": (model("float[N,T,C] x", "y = Add (w, x)", w=weight(13)), {2: 13}),
    "sum with a column": (model(IMAGE, "y = Add (x, w)", w=weight(5, 1, 1)), {1: 5}),
    "scale of a channel": (model(IMAGE, "y = PRelu (x, w)", w=weight(5, 1, 1)), {1: 5}),
    "recurrence": (
        model("float[T,N,C] x", "y = GRU <hidden_size = 4> (x, w, r)", w=weight(1, 12, 7), r=weight(1, 12, 4)),
        {2: 7},
    ),
    "image with channels last": (
        model(
            "float[batch,height,width,channels] x",
            "t = Transpose <perm = [0,3,1,2]> (x)  p = MaxPool <kernel_shape = [2,2]> (t)  y = Conv (p, w)",
            w=weight(4, 3, 3, 3),
        ),
        {3: 3},
    ),
    "weight of int8": (
        model(IMAGE, "d = DequantizeLinear (w, s, z)  y = Conv (x, d)", w=whole(4, 3, 3, 3), **SCALES),
        {1: 3},
    ),
    "quantized conv": (
        model(
            IMAGE,
            "q = QuantizeLinear (x, s, z)  y = QLinearConv (q, s, z, w, s, z, s, z)",
            w=whole(4, 3, 3, 3),
            **SCALES,
        ),
        {1: 3},
    ),
    "conv of integers": (
        model("uint8[batch,channels,height,width] x", "y = ConvInteger (x, w)", w=whole(4, 3, 3, 3)),
        {1: 3},
    ),
    "product of integers": (model("uint8[N,C] x", "y = MatMulInteger (x, w)", w=whole(9, 4)), {1: 9}),
    "two inputs": (
        model("float[N,C] x, float[N,C] other", "s = Add (x, other)  y = MatMul (s, w)", w=weight(9, 4)),
        {1: 9},
    ),
}


@pytest.mark.parametrize(("given", "sizes"), CASES.values(), ids=CASES.keys())
def test_sizes_are_those_of_the_weights_and_samples_run(given: ir.Model, sizes: dict[int, int]) -> None:
    tied = tied_sizes(given)
    assert {axis: size for (name, axis), size in tied.items() if name == "x"} == sizes
    first = synthetic_samples(given, count=1, target=CPU).first()
    assert {axis: first["x"].shape[axis] for axis in sizes} == sizes


def test_inputs_that_are_added_share_what_is_known() -> None:
    assert tied_sizes(CASES["two inputs"][0])["other", 1] == 9


def test_nothing_is_said_of_what_no_weight_fixes() -> None:
    free = model(IMAGE, "a = Relu (x)  y = Mul (a, w)", w=weight(1, 1, 1))
    assert tied_sizes(free) == {}


def test_sizes_are_asked_of_the_weights_only_where_the_usual_ones_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: ir.Model) -> dict[tuple[str, int], int]:
        raise AssertionError("most models run at once")

    monkeypatch.setattr("onnxslim.data.synthetic.tied_sizes", refuse)
    free = model(IMAGE, "a = Relu (x)  y = Mul (a, w)", w=weight(1, 1, 1))
    assert synthetic_samples(free, count=1, target=CPU).first()["x"].shape == (1, 64, 64, 64)
