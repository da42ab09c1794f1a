from __future__ import annotations

import json

import numpy as np
import pytest
from classifier import classifier
from read_report import from_json
from sample_models import from_text
from zoo import MODELS

import onnxslim
from onnxslim.analysis.cost import count_macs, measure_cost
from onnxslim.commands.breakdown import ADDED, break_down
from onnxslim.data import open_samples
from onnxslim.pipeline.interface import LayerChange
from onnxslim.report.json import to_json
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target

TARGET = detect_target("cpu", 1)


@pytest.fixture(scope="module")
def quantized():
    """ResNet-8, its int8 form with a report, and samples."""
    with np.load(MODELS / "fashion_calib.npz") as file:
        data = {name: array[:24] if array.ndim else array for name, array in file.items()}
    model = MODELS / "fashion_resnet8.onnx"
    return onnxslim.optimize(
        model,
        "quant:equalize=false",
        data=data,
        val=data,
        provider="cpu",
        threads=1,
        goal="size",
        measure=False,
        breakdown=True,
    )


def test_sums_are_those_of_the_whole_models(quantized):
    original = onnxslim.open_model(MODELS / "fashion_resnet8.onnx")
    breakdown = quantized.report.breakdown
    shapes = {"image": (1, 1, 28, 28)}
    for key, model in (("before", original), ("after", quantized.model)):
        for costs in ([getattr(each, key) for each in each_list] for each_list in (breakdown.layers, breakdown.ops)):
            assert sum(cost.macs for cost in costs) == count_macs(model, shapes)
            assert sum(cost.weight_bytes for cost in costs) == measure_cost(model).weight_bytes
            assert sum(cost.nodes for cost in costs) == len(model.graph)


def test_layers_say_their_types_and_their_error(quantized):
    layers = {each.name: each for each in quantized.report.breakdown.layers}
    layer = layers["/l/l.0/c2/Conv"]
    assert (layer.op, layer.value) == ("Conv", "/l/l.0/b2/BatchNormalization_output_0")
    assert (layer.before.weight_type, layer.after.weight_type) == ("float", "int8")
    assert layer.after.weight_bytes < layer.before.weight_bytes / 3.5
    assert layer.sqnr_db is not None
    assert 15 < layer.sqnr_db < 60
    assert (layer.before.time_ms, layer.before.time_reason) == (None, "not measured: asked not to")


def test_values_whose_channels_were_equalised_are_not_compared():
    generator = np.random.default_rng(0)
    spread = np.geomspace(1, 100, 16).astype(np.float32)
    first, second = (generator.normal(size=(16, 16)).astype(np.float32) for _ in range(2))
    model = from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[N,16] x) => (float[N,16] y) {'
        " a = Gemm (x, s, b) r = Relu (a) y = Gemm (r, t, c) }",
        s=first * spread,
        t=second / spread[:, None],
        b=spread,
        c=spread,
    )
    data = {"x": generator.normal(size=(64, 16)).astype(np.float32)}
    done = onnxslim.optimize(
        model, "quant", data=data, val=data, provider="cpu", threads=1, goal="size", measure=False, breakdown=True
    )
    layers = {each.value: each for each in done.report.breakdown.layers}
    inner = [each for name, each in layers.items() if name != "y"]
    assert inner
    assert all(each.sqnr_db is None and "factors" in each.sqnr_reason for each in inner)
    assert layers["y"].sqnr_db > 25


def test_it_is_in_the_json(quantized):
    data = json.loads(json.dumps(to_json(quantized.report)))
    assert from_json(data) == quantized.report
    assert data["breakdown"]["layers"][0].keys() >= {"name", "op", "value", "before", "after", "changes", "sqnr_db"}


def test_times_add_up_and_changes_of_width_are_told():
    model = classifier()
    data = {"x": np.ones((4, 8), np.float32)}
    samples = open_samples(data, Session.of(model, TARGET).inputs)
    change = LayerChange(model.graph[0].name or "", "MatMul", "rank", 8, 4, 512, 256)
    found = break_down(model, model, samples.first(), TARGET, samples, changes=[change])
    assert all(cost.time_ms is not None for each in found.layers for cost in (each.before, each.after))
    assert sum(each.before.time_ms or 0 for each in found.layers) > 0
    assert found.layers[0].changes[:1] == (change,)
    assert all(each.sqnr_reason == "it is identical" for each in found.layers if each.sqnr_db is None)
    assert ADDED not in [each.op for each in found.ops if each.before.nodes]


def test_where_nothing_is_run_the_rest_is_there_with_reasons(tmp_path):
    result = onnxslim.optimize(classifier(), check=False, breakdown=True)
    layers = result.report.breakdown.layers
    assert sum(each.before.macs for each in layers) == 8 * 64 + 64 * 4
    assert {each.sqnr_reason for each in layers} == {"not measured: asked not to"}
    assert onnxslim.optimize(classifier(), check=False).report.breakdown is None
