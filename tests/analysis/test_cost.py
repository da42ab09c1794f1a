"""Cost: counted by hand on small models, and unchanged models."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from zoo import zoo_file

from onnxslim.analysis.cost import count_macs, count_parameters, measure_cost, value_bytes
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.model import open_model


def weight(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def macs_of(node: str, inputs: str, opset: int = 21, **weights: np.ndarray) -> int:
    names = ", ".join(f"float {name}" for name in weights)
    model = from_text(
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
        f"g ({inputs}{', ' + names if names else ''}) => (float y) {{ y = {node} }}",
        **weights,
    )
    model.graph.outputs[0].shape = None
    return measure_cost(model).macs


@pytest.mark.parametrize(
    ("node", "inputs", "weights", "expected"),
    [
        (
            "Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (x, w)",
            "float[2,4,5,6] x",
            {"w": weight(8, 4, 3, 3)},
            2 * 8 * 5 * 6 * 4 * 9,
        ),
        (
            "Conv <group=2, strides=[2,2], kernel_shape=[2,2]> (x, w)",
            "float[1,4,8,8] x",
            {"w": weight(6, 2, 2, 2)},
            6 * 16 * 2 * 4,
        ),
        (
            "ConvTranspose <kernel_shape=[2,2], strides=[2,2]> (x, w)",
            "float[1,4,8,8] x",
            {"w": weight(4, 6, 2, 2)},
            4 * 64 * 6 * 4,
        ),
        ("Gemm <transB=1> (x, w)", "float[3,4] x", {"w": weight(5, 4)}, 60),
        ("Gemm <transA=1> (x, w)", "float[4,3] x", {"w": weight(4, 5)}, 60),
        ("MatMul (x, w)", "float[2,7,3,4] x", {"w": weight(4, 5)}, 2 * 7 * 60),
        ("MatMul (x, w)", "float[N,3,4] x", {"w": weight(4, 5)}, 60),
        ("MatMul (w, x)", "float[4,5] x", {"w": weight(4)}, 20),
        ("Relu (x)", "float[3,4] x", {}, 0),
        ('Einsum <equation="bij,jk->bik"> (x, w)', "float[2,3,4] x", {"w": weight(4, 5)}, 2 * 3 * 4 * 5),
        ('Einsum <equation="...j,jhk"> (x, w)', "float[2,3,4] x", {"w": weight(4, 5, 6)}, 2 * 3 * 4 * 30),
        ('Einsum <equation="bij->bi"> (x)', "float[2,3,4] x", {}, 0),
        ('Einsum <equation="i,j->ij"> (x, w)', "float[3] x", {"w": weight(4)}, 0),
        ("Attention (x, x, x)", "float[2,4,3,8] x", {}, 2 * 2 * 4 * 3 * 3 * 8),
        (
            "Attention <q_num_heads=4, kv_num_heads=2> (x, w, w)",
            "float[1,3,32] x",
            {"w": weight(1, 5, 16)},
            2 * 4 * 3 * 5 * 8,
        ),
        (
            "com.microsoft.Attention <num_heads=4> (x, w)",
            "float[2,3,32] x",
            {"w": weight(32, 96)},
            6 * 32 * 96 + 2 * 2 * 9 * 32,
        ),
        (
            "LSTM <hidden_size=6> (x, w, r)",
            "float[7,1,5] x",
            {"w": weight(1, 24, 5), "r": weight(1, 24, 6)},
            7 * 24 * 11,
        ),
    ],
)
def test_macs_are_counted_as_by_hand(node: str, inputs: str, weights: dict[str, np.ndarray], expected: int) -> None:
    assert macs_of(node, inputs, **weights) == expected


def test_an_op_without_signature_counts_nothing_and_is_named() -> None:
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[3,4] x) => (float[3,4] y)
        { a = Det (x) y = Det (x) }""",
    )
    cost = measure_cost(model)
    assert cost.macs == 0
    assert cost.uncounted == ("Det x2",)


def test_parameters_and_bytes() -> None:
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[1,4] x) => (float[2,8] y)
        { a = MatMul (x, w) b = Add (a, w) y = Reshape (b, s) }""",
        w=weight(4, 4),
        s=np.array([2, -1]),
    )
    model.graph.initializers["n"] = ir.Value(
        name="n", const_value=ir.Tensor(np.zeros(5, ir.DataType.INT4.numpy()), dtype=ir.DataType.INT4)
    )
    before = ir.to_proto(model).SerializeToString()
    cost = measure_cost(model)
    assert cost.parameters == 16 + 5  # shapes are no parameters
    assert cost.weight_bytes == 64 + 16 + 3  # two elements of int4 a byte
    assert cost.activation_bytes == 4 * (4 + 16 + 16)
    assert [each.parameters for each in cost.per_node] == [16, 16, 0]
    assert cost.nodes == 3
    assert ir.to_proto(model).SerializeToString() == before


def test_peak_is_the_most_that_is_alive_at_once() -> None:
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[10] x) => (float[10] y)
        { a = Relu (x) b = Relu (a) c = Relu (b) y = Add (a, c) }"""
    )
    # a, b and c; or a, c and y: x is gone by then
    assert measure_cost(model).peak_activation_bytes == 3 * 40


def test_nested_graphs_count_once_each() -> None:
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]> g (bool c, float[2,3] x, float[3,4] w) => (float[2,4] y)
        { y = If (c) <
            then_branch = t () => (float[2,4] p) { p = MatMul (x, w) },
            else_branch = e () => (float[2,4] q) { r = MatMul (x, w) q = Neg (r) }
        > }""",
        w=weight(3, 4),
    )
    cost = measure_cost(model)
    assert cost.macs == 2 * 24
    assert cost.nodes == 4
    assert cost.uncounted == ()
    assert cost.peak_activation_bytes == 1 + 4 * (6 + 8)  # the condition is one byte


def test_bytes_of_what_is_no_tensor_are_none() -> None:
    assert value_bytes(ir.Value(name="v")) == 0
    assert value_bytes(ir.Value(name="v", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.STRING))) == 0


def test_products_of_constants_are_no_work() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4] x, float[4,8] a, float[8,16] b, float[16,16] c) => (float[1,16] y) {
        d = MatMul (a, b)  e = MatMul (d, c)  y = MatMul (x, e) }""",
        a=np.zeros((4, 8), np.float32),
        b=np.zeros((8, 16), np.float32),
        c=np.zeros((16, 16), np.float32),
    )
    infer_shapes(model)
    assert count_macs(model, None) == 4 * 16
    assert measure_cost(model).macs == 4 * 16 + 4 * 8 * 16 + 4 * 16 * 16
    assert count_parameters(model) == measure_cost(model).parameters == 4 * 8 + 8 * 16 + 16 * 16


@pytest.mark.parametrize("shapes", [None, {"x": (3, 4)}])
def test_macs_at_the_sizes_of_inputs(shapes: dict[str, tuple[int, ...]] | None) -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x, float[4,8] a, float[8,2] b) => (float[N,2] y) {
        h = MatMul (x, a)  y = MatMul (h, b) }""",
        a=np.zeros((4, 8), np.float32),
        b=np.zeros((8, 2), np.float32),
    )
    before = ir.to_proto(model).SerializeToString()
    rows = 1 if shapes is None else 3
    assert count_macs(model, shapes) == rows * (4 * 8 + 8 * 2)
    assert ir.to_proto(model).SerializeToString() == before


def test_macs_behind_a_size_that_only_folding_tells() -> None:
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x, float[4,8] a) => (float[K,8] y) {
        l = Constant <value_floats = [25.9]> ()  r = Sqrt (l)  i = Cast <to = 7> (r)  f = Constant <value_ints = [4]> ()
        s = Concat <axis = 0> (i, f)  w = Expand (x, s)  y = MatMul (w, a) }""",
        a=np.zeros((4, 8), np.float32),
    )
    assert count_macs(model, {"x": (1, 4)}) == count_macs(specialize_shapes(model, {"x": (1, 4)}), None) == 5 * 4 * 8


@pytest.mark.parametrize("name", ["fashion/resnet18.onnx", "onnx/cifar10_resnet20.onnx"])
def test_macs_of_real_models_are_those_of_a_copy_at_the_sizes(name: str) -> None:
    model = open_model(zoo_file(name))
    (value,) = model.graph.inputs
    assert value.shape is not None
    shapes = {value.name or "": (3, *value.shape.numpy()[1:]) if value.shape.is_static() else (3, *value.shape[1:])}
    assert count_macs(model, shapes) == measure_cost(specialize_shapes(model, shapes)).macs
