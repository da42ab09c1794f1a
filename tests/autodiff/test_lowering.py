"""Convolutions that are brought into other forms make what they made before."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from op_proof import Runner

from onnxslim.autodiff.lowering import lower_step
from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.ops.lowering import DOMAIN
from onnxslim.runtime.blocked import block_width

HEAD = '<ir_version: 10, opset_import: ["": 18]>'
CLOSE = 1e-3
"""Sums of some hundred products of float32 in another order."""
RESIDUAL = """
g (float[2,16,24,24] x, float[16,16,3,3] v, float[32,16,3,3] w, float[32] b, float[32,32,1,1] u, float[32,16,2,2] t)
    => (float[2,16,25,25] y, float[2,16,24,24] inner)
{ a = Conv <pads = [1,1,1,1]> (x, v)
  r = Relu (a)
  inner = Add (r, x)
  s = Conv <pads = [1,1,1,1]> (inner, w, b)
  q = Relu (s)
  p = Conv (q, u)
  m = Greater (p, p)
  k = CastLike (m, p)
  j = Mul (p, k)
  z = Sum (j, p, q)
  y = ConvTranspose (z, t) }"""
STRIDED = """
g (float[8,16,30,31] x, float[32,16,3,3] w, float[32,32,3,3] v) => (float[8,32,14,14] y)
{ a = Conv <pads = [0,1,1,0], strides = [2,2]> (x, w)
  y = Conv <auto_pad = "SAME_LOWER"> (a, v) }"""
DILATED = """
g (float[2,16,28,28] x, float[16,16,3,3] w) => (float[2,16,29,30] y)
{ a = ConvTranspose <pads = [1,2,2,0], dilations = [2,2]> (x, w)
  y = Neg (a) }"""
FEW = """
g (float[2,8,4,4] x, float[64,8,3,3] w, float[64] b, float[100,64,1,1] v) => (float[2,100,2,2] y)
{ a = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w, b)
  p = Conv (a, v)
  y = Neg (p) }"""
KEPT = """
g (float[3,16,24,24] x, float[16,8,3,3] w, float[32,16,3,3] u) => (float[3,16,22,22] y, float[3,32,20,20] z)
{ a = Conv <group = 2> (x, w)
  y = Relu (a)
  z = Conv (y, u) }"""


def lowered(text: str, block: int | None) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a model that gives gradients, too, before and after it is lowered."""
    model = ir.from_proto(onnx.parser.parse_model(HEAD + text))
    build = graph_builder(model)
    operands = list(model.graph.inputs)
    seeds = {}
    for output in list(model.graph.outputs):
        seed = ir.Value(name=f"seed_{output.name}", type=output.type, shape=output.shape)
        model.graph.inputs.append(seed)
        seeds[output] = seed
    model.graph.outputs.extend(build_gradients(build, seeds, operands).values())
    before = ir.to_proto(model)
    lower_step(model, block)
    assert all(value.type is not None for node in model.graph for value in node.outputs)
    return before, ir.to_proto(model)


def blocked(model: onnx.ModelProto) -> int:
    return sum(node.domain == DOMAIN and node.op_type == "Conv" for node in model.graph.node)


@pytest.mark.parametrize("width", ["blocked", "plain"])
@pytest.mark.parametrize("text", [RESIDUAL, STRIDED, DILATED, FEW, KEPT])
def test_a_step_makes_the_same_when_it_is_lowered(text: str, width: str) -> None:
    block = block_width() if width == "blocked" else None
    before, after = lowered(text, block)
    random = np.random.default_rng(0)
    feeds = {
        value.name: np.asarray(
            random.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]), np.float32
        )
        for value in before.graph.input
    }
    expected, found = Runner(before)(feeds), Runner(after)(feeds)
    assert list(expected) == list(found)
    for name, array in expected.items():
        scale = max(float(np.abs(array).max()), 1.0)
        assert float(np.abs(array - found[name]).max()) <= CLOSE * scale, name
    assert (blocked(after) > 0) == (block is not None and text != FEW)


def test_few_places_become_a_product() -> None:
    _, after = lowered(FEW, None)
    convolutions = [node for node in after.graph.node if node.op_type == "Conv"]
    assert not convolutions


def test_a_constant_kernel_is_left_to_the_runtime() -> None:
    text = """g (float[2,16,24,24] x) => (float[2,16,24,24] y) <float[16,16,1,1] w = {0}>
    { y = Conv (x, w) }"""
    proto = onnx.parser.parse_model(HEAD + text)
    del proto.graph.initializer[:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "w"))
    model = ir.from_proto(proto)
    lower_step(model, 16)
    assert [node.domain for node in model.graph] == [""]


def test_blocks_are_as_wide_as_the_processor_has_them() -> None:
    assert block_width() in (None, 8, 16)


def aligned(text: str, shape: str, number: str = "") -> list[list[int]]:
    """Return the axes of what nodes read of x and n, after the step was lowered, and see that they make the same."""
    graph = f"g (float{shape} x, float{number} n, bool{shape} c) => (float{shape} y) {{ y = {text} }}"
    model = ir.from_proto(onnx.parser.parse_model(HEAD + graph))
    before = ir.to_proto(model)
    lower_step(model, None)
    sizes = [int(size) for size in shape.strip("[]").split(",") if size]
    feeds = {"x": np.random.default_rng(0).standard_normal(sizes).astype(np.float32)}
    feeds["n"] = np.full([1] * number.count("1"), 0.3, np.float32)
    feeds["c"] = np.asarray(feeds["x"] > 0)
    np.testing.assert_array_equal(*(Runner(each)(feeds)["y"] for each in (before, ir.to_proto(model))))
    nodes = [node for node in model.graph if node.op_type != "Reshape"]
    return [[len(value.shape or ()) for value in node.inputs if value is not None] for node in nodes]


@pytest.mark.parametrize("text", ["Mul (x, n)", "Sub (n, x)", "Pow (n, x)"])
def test_numbers_have_as_many_axes_as_what_ends_in_one_place(text: str) -> None:
    """ONNX Runtime goes through the elements one by one otherwise."""
    assert aligned(text, "[5,4,1,1]") == [[4, 4]]
    assert aligned(text, "[5,1]", "[1]") == [[2, 2]]


def test_numbers_that_are_chosen_have_as_many_axes_too() -> None:
    assert aligned("Where (c, x, n)", "[5,4,1,1]") == [[4, 4, 4]]


def test_numbers_stay_where_nothing_is_gained() -> None:
    assert aligned("Mul (x, n)", "[5,4]") == [[2, 0]]
    assert aligned("Mul (x, n)", "[5]") == [[1, 0]]
    assert aligned("Mul (x, n)", "[1,1]") == [[2, 0]]
    assert aligned("Mul (x, n)", "[5,1]", "[1,1]") == [[2, 2]]
    assert aligned("Clip (x, n)", "[5,4,1,1]") == [[4, 0]]  # it takes scalars alone


def test_a_kernel_is_laid_out_without_moving_several_axes_at_once() -> None:
    block = block_width()
    if block is None:
        pytest.skip("this processor has no blocked convolutions")
    _, after = lowered(RESIDUAL, block)
    orders = [list(node.attribute[0].ints) for node in after.graph.node if node.op_type == "Transpose"]
    assert [0, 2, 1] in orders
    assert [0, 2, 4, 3, 1] not in orders
    assert [2, 0, 4, 1, 3] not in orders
