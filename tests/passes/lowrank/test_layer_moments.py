"""What is seen of a layer: rows that times its weight are what it gave, and moments about what a bias makes up for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.lowrank.layer import find_layers
from onnxslim.passes.lowrank.layer_moments import CollectedMoments, Downstream, MomentCollector, rows
from sample_models import from_text

from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)


def model(text: str, **shapes: tuple[int, ...]) -> ir.Model:
    weights = {name: GENERATOR.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    names = "".join(f", float {name}" for name in weights)
    header = '<ir_version: 10, opset_import: ["" : 17]> '
    made = from_text(header + text.replace(") => (", f"{names}) => (", 1), **weights)
    infer_shapes(made)
    return made


CASES = {
    "windows": ("g (float[N,3,9,10] x) => (float[N,4,P,Q] y) { y = Conv <pads=[1,0,2,1]> (x, w) }", (4, 3, 3, 2)),
    "strides": ("g (float[N,3,9,10] x) => (float[N,4,P,Q] y) { y = Conv <strides=[2,3]> (x, w) }", (4, 3, 3, 2)),
    "dilations": ("g (float[N,3,9,10] x) => (float[N,4,P,Q] y) { y = Conv <dilations=[3,2]> (x, w) }", (4, 3, 3, 2)),
    "one axis": ("g (float[N,3,9] x) => (float[N,4,P] y) { y = Conv <pads=[2,1], strides=[2]> (x, w) }", (4, 3, 3)),
    "right": ("g (float[N,5,3] x) => (float[N,5,4] y) { y = MatMul (x, w) }", (3, 4)),
    "left": ("g (float[N,3,5] x) => (float[N,4,5] y) { y = MatMul (w, x) }", (4, 3)),
    "transposed": ("g (float[3,N] x) => (float[N,4] y) { y = Gemm <transA=1, transB=1> (x, w) }", (4, 3)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("most", [7, 10_000])
def test_rows_times_the_weight_are_what_the_layer_gave(name: str, most: int) -> None:
    text, shape = CASES[name]
    whole = model(text, w=shape)
    (layer,), _ = find_layers(whole, smallest=1)
    sizes = [size if isinstance(size, int) else 3 for size in whole.graph.inputs[0].shape or ()]
    data = GENERATOR.normal(size=sizes).astype(np.float32)
    result = Session.of(whole).run({"x": data})["y"]
    inputs, outputs = rows(layer.first, data, result, most, np.random.default_rng(1))
    assert len(inputs) == len(outputs) <= max(most + len(data), result.size // layer.outputs)
    np.testing.assert_allclose(inputs @ layer.matrix(), outputs, atol=1e-4)
    if most > 7:
        assert len(outputs) * layer.outputs == result.size


@pytest.mark.parametrize("bias", [True, False])
def test_moments_are_about_the_mean_where_a_bias_makes_up_for_it(bias: bool) -> None:
    body = "p = MatMul (x, w) y = Add (p, b)" if bias else "y = MatMul (x, w)"
    whole = model(f"g (float[N,5,4] x) => (float[N,5,3] y) {{ {body} }}", w=(4, 3), **({"b": (3,)} if bias else {}))
    (layer,), _ = find_layers(whole, smallest=1)
    data = (5 + GENERATOR.normal(size=(16, 5, 4))).astype(np.float32)
    seen = _seen(whole, layer, data)
    x = data.reshape(-1, 4).astype(np.float64)
    y = x @ layer.matrix()
    if bias:
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    moments = seen.moments(layer)
    np.testing.assert_allclose(moments.gram, x.T @ x / len(x), atol=1e-4)
    np.testing.assert_allclose(moments.cross, x.T @ y / len(x), atol=1e-4)
    assert moments.energy == pytest.approx(np.square(y).sum() / len(y), rel=1e-4)


def _seen(whole: ir.Model, layer: LinearLayer, data: np.ndarray) -> CollectedMoments:
    samples = open_samples({"x": data}, Session.of(whole).inputs)
    watch = MomentCollector(whole, None, samples, np.random.default_rng(0), Session.of, Downstream())
    ((_, seen),) = watch.each([layer])
    return seen
