"""Sums of products stay exact: the rule, and ONNX Runtime's kernels on this machine as the judge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxslim.passes.quant.saturation import (
    PAIR_LIMIT,
    Saturation,
    fit_pairs,
    products_in_order,
    restore_order,
)
from onnxslim.passes.quant.weights import quantize_weight


def overflowing_pairs(rows: npt.NDArray[np.int8]) -> int:
    """Count the pairs of neighbours in (rows, products) that some activations would make saturate."""
    paired = rows.shape[1] // 2 * 2
    wide = rows[:, :paired].astype(np.int32).reshape(-1, 2)
    highest, lowest = np.maximum(wide, 0).sum(axis=1), np.minimum(wide, 0).sum(axis=1)
    return int(np.count_nonzero((highest > PAIR_LIMIT) | (lowest < -PAIR_LIMIT)))


def run(nodes, weights, x, output, dtype):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info(output, dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def integer_matmul(x, weight):
    return run([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], {"w": weight}, x, "y", TensorProto.INT32)


def integer_conv(x, weight, group, shift):
    """QLinearConv with scales 1, and `shift` as the output's, so that sums of products show in 8 bits."""
    weights = {
        "one": np.float32(1), "zero": np.uint8(0), "w": weight, "ws": np.ones(len(weight), np.float32),
        "wz": np.zeros(len(weight), np.int8), "ys": np.float32(shift),
    }  # fmt: skip
    node = helper.make_node(
        "QLinearConv", ["x", "one", "zero", "w", "ws", "wz", "ys", "zero"], ["y"], group=group, name="conv"
    )
    return run([node], weights, x, "y", TensorProto.UINT8)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_matmul_is_exact_at_the_worst_activations(products, rows, seed):
    generator = np.random.default_rng(seed)
    real = generator.choice([-1.0, 1.0, 0.9, 0.3], (products, 5)).astype(np.float32)
    weight = quantize_weight(real, 1, packing="plain", saturation=Saturation.PAIRS).levels
    x = generator.choice(np.array([0, 254, 255], np.uint8), (rows, products), p=[0.1, 0.2, 0.7])
    np.testing.assert_array_equal(integer_matmul(x, weight), x.astype(np.int64) @ weight.astype(np.int64))


@given(st.integers(1, 9), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_convolution_is_exact_at_the_worst_activations(channels, kernel, group, seed):
    generator = np.random.default_rng(seed)
    real = generator.choice([1.0, 0.9, 0.8, -0.2], (4 * group, channels, kernel, kernel)).astype(np.float32)
    weight = quantize_weight(real, 0, packing="channels last", saturation=Saturation.PAIRS).levels
    x = generator.integers(240, 256, (1, channels * group, kernel + 1, kernel + 1)).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.int64), (kernel, kernel), axis=(2, 3))
    windows = windows.reshape(1, group, channels, *windows.shape[2:])
    grouped = weight.astype(np.int64).reshape(group, 4, channels, kernel, kernel)
    exact = np.einsum("ngcyxij,gocij->ngoyx", windows, grouped).reshape(1, 4 * group, 2, 2)
    shift = 2.0 ** np.ceil(np.log2(max(exact.max(), 1) / 200))
    expected = np.clip(np.rint(exact / shift), 0, 255)
    np.testing.assert_array_equal(integer_conv(x, weight, group, shift), expected)


@pytest.mark.parametrize("shape", [(8, 1, 3), (8, 1, 3, 3), (8, 1, 3, 3, 3), (5, 1, 3, 3)])
def test_depthwise_kernels_do_not_saturate(shape):
    weight = np.full(shape, 127, np.int8)
    x = np.full((1, shape[0], *(3 for _ in shape[2:])), 255, np.uint8)
    total = 127 * 255 * np.prod(shape[2:])
    shift = 2.0 ** np.ceil(np.log2(total / 200))
    assert (integer_conv(x, weight, shape[0], shift) == np.rint(total / shift)).all()


@given(st.integers(1, 4), st.integers(1, 17), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_pairs_fit_and_only_misfits_move(rows, products, seed):
    levels = np.random.default_rng(seed).uniform(-127, 127, (rows, products)).astype(np.float32)
    fitted = fit_pairs(levels)
    assert overflowing_pairs(fitted.astype(np.int8)) == 0
    assert np.abs(fitted).max() <= 127
    assert (fitted * np.rint(levels) >= 0).all()
    paired = products // 2 * 2
    sums = np.abs(np.rint(levels[:, 0:paired:2]) + np.rint(levels[:, 1:paired:2]))
    same = (fitted[:, :paired] == np.rint(levels[:, :paired])).reshape(rows, -1, 2).all(-1)
    assert same[sums <= PAIR_LIMIT].all()


def test_a_pair_moves_to_its_nearest_point():
    assert fit_pairs(np.array([[100.0, 80.0, 127.0, -127.0, 127.0]], np.float32)).tolist() == [[74, 54, 127, -127, 127]]


@pytest.mark.parametrize(("axis", "packing"), [(0, "plain"), (0, "channels last"), (1, "plain")])
def test_order_is_undone(axis, packing):
    weight = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    rows = products_in_order(weight, axis, packing)
    np.testing.assert_array_equal(restore_order(rows, weight.shape, axis, packing), weight)


def test_input_channels_run_fastest_in_a_convolution():
    weight = np.arange(6).reshape(1, 2, 3, 1)
    assert products_in_order(weight, 0, "channels last").tolist() == [[0, 3, 1, 4, 2, 5]]


def test_auto_asks_the_target():
    assert Saturation.AUTO.on(True) is Saturation.PAIRS
    assert Saturation.AUTO.on(False) is Saturation.IGNORE
    assert Saturation.REDUCE_RANGE.on(False) is Saturation.REDUCE_RANGE


def test_pairs_lose_less_than_seven_bits():
    weight = np.random.default_rng(0).normal(size=(16, 32, 3, 3)).astype(np.float32)

    def error(saturation):
        quantized = quantize_weight(weight, 0, packing="channels last", saturation=saturation)
        return np.square(quantized.dequantized() - weight).mean()

    assert error(Saturation.IGNORE) <= error(Saturation.PAIRS) < error(Saturation.REDUCE_RANGE)
