"""Activations of fewer than 8 bits are integers of 8 of which few are used: kernels of 8 bits compute on them."""

from __future__ import annotations

import numpy as np
import onnx.checker
import onnx_ir as ir
import pytest
from onnxslim.passes.dequantize import Dequantize
from onnxslim.passes.qat import Qat
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.scales import Activations, Calibration
from sample_models import from_text
from story import VNNI, make_context

from onnxslim.analysis.quantized import level_ends, quantized_layers
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.runtime.placement import RunsIn, place
from onnxslim.runtime.session import Session
from onnxslim.train.fake_quantization import quantized_student

NET = """<ir_version: 9, opset_import: ["" : 18]> g (float[N,3,6,6] x) => (float[N,8,6,6] y) {
    a = Conv <pads = [1,1,1,1]> (x, u)  p = Relu (a)  b = Conv <pads = [1,1,1,1]> (p, v)  q = Relu (b)
    y = Conv (q, w) }"""


def net() -> tuple[ir.Model, dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (generator.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    model = from_text(NET, u=weight(8, 3, 3, 3), v=weight(16, 8, 3, 3), w=weight(8, 16, 1, 1))
    infer_shapes(model)
    return model, {"x": generator.normal(size=(32, 3, 6, 6)).astype(np.float32)}


def quantized(activations: Activations, **options) -> tuple[ir.Model, ir.Model, dict[str, np.ndarray]]:
    model, feeds = net()
    after = model.clone()
    given = {"calibration": Calibration.MINMAX, "equalize": False, "float_time": 0.0, **options}
    change = Quant(activations=activations, **given).run(after, make_context(model, feeds, target=VNNI))
    assert change.modified
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    return model, after, feeds


def cuts(model: ir.Model) -> list[tuple[int, int]]:
    return [ends for node in model.graph if (ends := level_ends(node)) is not None]


@pytest.mark.parametrize(("kind", "ends", "bits"), [("uint4", (0, 15), 4), ("int4", (-8, 7), 4), ("uint2", (0, 3), 2)])
def test_levels_end_where_the_bits_do(kind: str, ends: tuple[int, int], bits: int) -> None:
    model, after, feeds = quantized(Activations(kind))
    assert set(cuts(after)) == {ends}
    assert {layer.activation_bits for layer in quantized_layers(after)} == {bits}
    probe = after.clone()
    levels = [node.outputs[0] for node in probe.graph if level_ends(node) is not None]
    probe.graph.outputs.extend(levels)
    found = Session.of(probe, VNNI).run(feeds)
    for value in levels:
        assert ends[0] <= found[value.name].min()
        assert found[value.name].max() <= ends[1]
        assert len(np.unique(found[value.name])) > 2, "the levels are made use of"
    wanted = Session.of(model, VNNI).run(feeds)["y"]
    errors = {}
    for either in (kind, "uint8"):
        made = Session.of(quantized(Activations(either))[1], VNNI).run(feeds)["y"]
        errors[either] = float(np.square(made - wanted).mean() / np.square(wanted).mean())
    assert errors["uint8"] < errors[kind] < (0.5 if bits > 2 else 2.0)


def test_onnx_runtime_computes_on_integers() -> None:
    _, after, feeds = quantized(Activations.UINT4)
    found = place(after, {"x": feeds["x"][:1]}, VNNI, runs=2)
    kernels = [item.place for item in found.nodes if item.node.op_type == "Conv"]
    assert kernels == [RunsIn.INT8] * 3


def test_what_costs_most_has_8_bits_within_the_time() -> None:
    _, after, _ = quantized(Activations.UINT4, float_time=0.9)
    assert 0 < len(cuts(after)) < len(cuts(quantized(Activations.UINT4)[1]))


def test_floats_that_come_back_are_cut_off_there() -> None:
    model, after, feeds = quantized(Activations.UINT4)
    Dequantize().run(after, make_context(model, feeds, target=VNNI))
    assert not cuts(after)
    assert not quantized_layers(after)
    wanted = Session.of(model, VNNI).run(feeds)["y"]
    made = Session.of(after, VNNI).run(feeds)["y"]
    assert np.square(made - wanted).mean() < 0.05 * np.square(wanted).mean()


def test_they_are_trained_and_stay_what_they_are() -> None:
    model, after, feeds = quantized(Activations.UINT2)
    student = quantized_student(after, after.clone())
    scales = [scale for scale in student.factors if scale.const_value.size == 1]
    assert scales, "scales of activations are learned"

    def error() -> float:
        wanted, made = (Session.of(either, VNNI).run(feeds)["y"] for either in (model, after))
        return float(np.square(made - wanted).mean())

    before, ends = error(), cuts(after)
    change = Qat(epochs=40, batch=8, rate=0.003).run(after, make_context(model, feeds, target=VNNI))
    assert change.modified
    assert cuts(after) == ends
    assert error() < 0.8 * before
