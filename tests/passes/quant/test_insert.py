"""What ONNX Runtime rounds by itself of what is to be float, and what is written so that it does not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.scales import Calibration
from onnxslim.passes.quant.table import load_table
from sample_models import from_text
from story import HERE, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.session import Session

OPS = {
    "Conv": ("float[N,8,6,6]", "Conv <pads = [1, 1, 1, 1]>", (8, 8, 3, 3), 1e-4),
    "ConvTranspose": ("float[N,8,6,6]", "ConvTranspose <pads = [1, 1, 1, 1]>", (8, 8, 3, 3), 1e-4),
    "Gemm": ("float[N,8]", "Gemm <transB = 1>", (8, 8), 1e-5),
}
"""What is read, the op, the sizes of its weight, and the scale of what it makes."""
FAST = {"calibration": Calibration.MINMAX, "float_time": 0.0, "equalize": False}


def weight(*sizes: int) -> np.ndarray:
    """Return a weight whose outputs differ in width so much that one scale is too coarse for most of them."""
    drawn = np.random.default_rng(0).normal(size=sizes) * np.geomspace(1, 1e-3, 8).reshape(-1, *[1] * (len(sizes) - 1))
    return drawn.swapaxes(0, 1).astype(np.float32) if len(sizes) == 4 else drawn.astype(np.float32)


def error(model: ir.Model, feeds: dict[str, np.ndarray]) -> float:
    """Return the energy of what ONNX Runtime's optimization changes, relative to the outputs."""
    plain, optimized = (Session.of(model, HERE, optimize=choice).run(feeds)["y"] for choice in (False, True))
    return float(np.square(plain - optimized).sum() / np.square(plain).sum())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("channels", [False, True])
def test_what_the_table_says_is_so(op: str, channels: bool) -> None:
    assert op in load_table("cpu").rounds
    kind, call, sizes, step = OPS[op]
    scales, axis = ("t, o", "<axis = 1>") if channels else ("s, z", "")
    model = from_text(
        f"""<ir_version: 9, opset_import: ["" : 17]> g ({kind} x) => ({kind} y) {{
            q = QuantizeLinear (x, s, z)  d = DequantizeLinear {axis} (q, {scales})
            a = {call} (d, w)  r = Relu (a)  p = QuantizeLinear (r, u, n)  y = DequantizeLinear (p, u, n) }}""",
        **{"s": np.float32(0.03), "z": np.uint8(128)},
        **({"t": np.full(8, 0.03, np.float32), "o": np.full(8, 128, np.uint8)} if channels else {}),
        **{"u": np.float32(step), "n": np.uint8(0), "w": 1e-3 * weight(*sizes)},
    )
    feeds = {"x": np.random.default_rng(1).normal(size=[4, *([8, 6, 6] if "6" in kind else [8])]).astype(np.float32)}
    assert (error(model, feeds) < 1e-6) is channels


NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,8,6,6] x) => (float[N,8,6,6] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u)  h = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (h, w, c)  r = Relu (b)
    y = Conv <pads = [1, 1, 1, 1]> (r, v) }"""


def net() -> tuple[ir.Model, dict[str, np.ndarray]]:
    generator = np.random.default_rng(2)
    own = {name: generator.normal(size=(8, 8, 3, 3)).astype(np.float32) for name in "uv"}
    model = from_text(NET, **own, w=weight(8, 8, 3, 3).swapaxes(0, 1).copy(), c=np.ones(8, np.float32))
    infer_shapes(model)
    return model, {"x": generator.normal(size=(32, 8, 6, 6)).astype(np.float32)}


def test_a_layer_that_is_left_in_float_is_float() -> None:
    model, feeds = net()
    assert Quant(exclude=("b",), **FAST).run(model, make_context(model.clone(), feeds, target=HERE)).modified  # type: ignore[arg-type]
    (layer,) = [node for node in model.graph if "w" in [value.name for value in node.inputs if value is not None]]
    source = layer.inputs[0]
    assert source is not None
    reader = source.producer()
    assert reader is not None
    assert reader.op_type == "DequantizeLinear"
    assert reader.attributes.get_int("axis") == 1
    assert [value.const_value.shape for value in reader.inputs[1:]] == [(8,), (8,)]  # type: ignore[union-attr]
    assert error(model, feeds) < 1e-4


def test_layers_that_multiply_integers_read_one_scale() -> None:
    model, feeds = net()
    assert Quant(**FAST).run(model, make_context(model.clone(), feeds, target=HERE)).modified  # type: ignore[arg-type]
    data = [
        node for node in model.graph if node.op_type == "DequantizeLinear" and node.inputs[0].producer() is not None
    ]  # type: ignore[union-attr]
    assert data
    assert not any("axis" in node.attributes for node in data)


def test_other_targets_have_one_scale_for_a_tensor() -> None:
    model, feeds = net()
    step = Quant(exclude=("b",), target="qdq", **FAST)  # type: ignore[arg-type]
    assert step.run(model, make_context(model.clone(), feeds, target=HERE)).modified
    assert not [
        node for node in model.graph if node.op_type == "DequantizeLinear" and node.attributes.get_int("axis", 0) == 1
    ]
