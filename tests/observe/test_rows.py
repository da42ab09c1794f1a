"""Rows of a regression times the weight are what ONNX Runtime's convolutions and products make."""

from __future__ import annotations

import numpy as np
import pytest
from channel_models import built, weight

from onnxslim.analysis.contraction import contractions
from onnxslim.observe.rows import input_rows, output_rows, place_count
from onnxslim.runtime.session import Session


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((6, 4, 3, 3), "pads=[1,1,1,1]"),
        ((6, 4, 3, 2), "pads=[1,0,2,1], strides=[2,1], dilations=[1,2]"),
        ((6, 2, 3, 3), "group=2, strides=[2,2]"),
        ((8, 1, 3, 3), "group=4, pads=[1,1,1,1]"),
        ((6, 4, 3, 3), 'auto_pad="SAME_UPPER", strides=[2,2]'),
        ((6, 4, 2, 4), 'auto_pad="SAME_LOWER", strides=[3,2]'),
        ((6, 4, 2, 3), 'auto_pad="SAME_UPPER", strides=[1,2]'),
        ((6, 4, 2, 3), 'auto_pad="SAME_LOWER", strides=[1,2]'),
        ((6, 4, 3, 3), 'auto_pad="VALID"'),
        ((6, 4, 1, 1), ""),
    ],
)
def test_windows_are_those_of_convolutions(shape: tuple[int, ...], attributes: str) -> None:
    model = built(
        f"g (float[N,4,9,8] x) => (float y) {{ y = Conv <{attributes}> (x, w) }}".replace("Conv <>", "Conv"),
        w=weight(*shape),
    )
    agrees(model, np.random.default_rng(1).normal(size=(3, 4, 9, 8)).astype(np.float32), 1)


@pytest.mark.parametrize(
    ("text", "sizes", "shape", "axis"),
    [
        ("y = Gemm (x, w)", (4, 5), (7, 4), 1),
        ("y = Gemm <transB=1> (x, w)", (5, 4), (7, 4), 1),
        ("y = Gemm <transA=1> (x, w)", (4, 5), (4, 7), 1),
        ("y = MatMul (x, w)", (4, 5), (2, 3, 4), 2),
    ],
)
def test_rows_are_those_of_products(text: str, sizes: tuple[int, ...], shape: tuple[int, ...], axis: int) -> None:
    dimensions = ",".join(map(str, shape))
    model = built(f"g (float[{dimensions}] x) => (float y) {{ {text} }}", w=weight(*sizes))
    agrees(model, np.random.default_rng(1).normal(size=shape).astype(np.float32), axis)


def agrees(model, data: np.ndarray, axis: int) -> None:
    (contraction,) = contractions(model.graph)
    assert contraction.regular
    made = Session.of(model).run({"x": data})["y"]
    count = place_count(contraction, data)
    for places in (np.arange(count), np.arange(count)[::3]):
        inputs = input_rows(contraction, data, places)
        wanted = output_rows(contraction, made, axis, places)
        np.testing.assert_allclose(inputs @ contraction.blocks(), wanted, atol=1e-5)
    np.testing.assert_array_equal(
        contraction.as_weight(contraction.matrix()).astype(np.float32), contraction.weight.const_value.numpy()
    )
