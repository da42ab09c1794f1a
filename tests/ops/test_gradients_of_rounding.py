"""Gradients of QuantizeLinear and DequantizeLinear: straight through the rounding, and of the scale as LSQ has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from op_proof import Runner

from onnxslim.autodiff.reverse import build_gradients, graph_builder
from onnxslim.errors import NotDifferentiable

BOUNDS = {"uint8": (0, 255), "int8": (-128, 127), "int4": (-8, 7), "int16": (-(2**15), 2**15 - 1)}


def gradients(
    text: str, feeds: dict[str, np.ndarray], *of: str, constants: Sequence[onnx.TensorProto] = ()
) -> list[np.ndarray]:
    """Return the gradients of the sum of the output, weighted by `seed`, with respect to the inputs `of`."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(constants)
    model = ir.from_proto(proto)
    build = graph_builder(model)
    inputs = {value.name: value for value in model.graph.inputs}
    (output,) = model.graph.outputs
    found = build_gradients(build, {output: inputs["seed"]}, [inputs[name] for name in of])
    model.graph.outputs.clear()
    for name in of:
        model.graph.outputs.append(build.op("Identity", found[inputs[name]]))
    return list(Runner(ir.to_proto(model))(feeds).values())


def lsq(x, scale, zero, low, high, seed):
    """The gradients of x and the scale as equation 3 of LSQ has them, element by element."""
    ratio = x / scale
    inside = (ratio >= low - zero) & (ratio <= high - zero)
    held = np.clip(np.round(ratio) + zero, low, high) - zero
    return np.where(inside, seed, 0), seed * np.where(inside, np.round(ratio) - ratio, held)


@pytest.mark.parametrize("kind", ["uint8", "int8", "int16", "int4"])
@pytest.mark.parametrize("form", ["one scale", "an axis", "zero points that differ", "blocks"])
def test_a_pair_passes_gradients_on_within_its_range(kind: str, form: str) -> None:
    random = np.random.default_rng(len(kind) + len(form))
    low, high = BOUNDS[kind]
    shape, scales = (3, 8), {"one scale": (), "blocks": (3, 2)}.get(form, (3,))
    own = {"one scale": (1, 1), "blocks": (3, 2, 1)}.get(form, (3, 1))
    scale = np.asarray(random.uniform(0.5, 2, scales), np.float32)
    zero = random.integers(-3, 4, scales) if form == "zero points that differ" and low else np.full(scales, max(low, 2))
    x = (np.asarray(random.uniform(1.5 * low - 3, 1.5 * high + 3, shape)) * scale.mean()).astype(np.float32)
    seed = random.standard_normal(shape).astype(np.float32)
    axes = {"one scale": "", "blocks": "<axis=1, block_size=4>"}.get(form, "<axis=0>")
    sizes = f"[{','.join(map(str, scales))}]" if scales else ""
    text = f"""<ir_version: 10, opset_import: ["": 21]>
    g (float[3,8] x, float{sizes} s, float[3,8] seed) => (float[3,8] y)
    <int64[1] flat = {{24}}, int64[2] back = {{3,8}}>
    {{ q = QuantizeLinear {axes} (x, s, z)
       r = Reshape (q, flat)  t = Reshape (r, back)
       y = DequantizeLinear {axes} (t, s, z) }}"""
    stored = onnx.helper.make_tensor("z", getattr(onnx.TensorProto, kind.upper()), scales, zero.ravel().tolist())
    dx, ds = gradients(text, {"x": x, "s": scale, "seed": seed}, "x", "s", constants=[stored])
    blocked = (3, 2, 4) if form == "blocks" else shape
    expected_x, every = lsq(x.reshape(blocked), scale.reshape(own), zero.reshape(own), low, high, seed.reshape(blocked))
    axis = {"one scale": None, "blocks": 2}.get(form, 1)
    np.testing.assert_allclose(dx, expected_x.reshape(shape), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ds, every.sum(axis), rtol=1e-4, atol=1e-3 * high)
    assert 0 < (dx == 0).sum() < dx.size, "all of the numbers, or none, were in range: nothing was proved"


def test_the_gradient_of_a_scale_of_stored_integers_is_that_of_a_product() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (float[2] s, float[2,3] seed) => (float[2,3] y)
    <int8[2,3] w = {1, 2, 3, -4, 5, 6}, int8[2] z = {1, -1}> { y = DequantizeLinear <axis=0> (w, s, z) }"""
    seed = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    (ds,) = gradients(text, {"s": np.ones(2, np.float32), "seed": seed}, "s")
    np.testing.assert_allclose(ds, [0 + 2 + 6, -12 + 30 + 42])


@pytest.mark.parametrize(
    "body",
    ["a = Cast <to=6> (q)  b = Mul (a, a)  y = Cast <to=1> (b)", "a = MatMulInteger (q, w)  y = Cast <to=1> (a)"],
)
def test_arithmetic_on_integers_that_stand_for_numbers_is_refused(body: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 21]>
    g (float[3,3] x, float[3,3] seed) => (float[3,3] y)
    <float s = {{0.5}}, int8[3,3] w = {{1,2,3,4,5,6,7,8,9}}, int8 z = {{0}}>
    {{ q = QuantizeLinear (x, s, z)  {body} }}"""
    with pytest.raises(NotDifferentiable):
        gradients(text, {}, "x")
