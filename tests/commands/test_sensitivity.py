"""The command that says what layers cost: its figures are those of the pass, and losses those of layers alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console
from sample_models import from_text

from onnxslim.commands.sensitivity import ModelSensitivity, measure_sensitivity
from onnxslim.errors import UsageError
from onnxslim.report.json import dumps
from onnxslim.report.sensitivity import print_layers_alone


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two products, of which the first makes one value 300 times as large as all others."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(16, 16)).astype(np.float32), generator.normal(size=(16, 32))
    first[:, 0] *= 300
    second[0] /= 300
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,16] x) => (float[N,32] y) {
        p = MatMul (x, w)  r = Relu (p)  y = MatMul (r, v) }"""
    model = from_text(text, w=first, v=second.astype(np.float32))
    for node, name in zip(model.graph, ("fir*st", "relu", "second"), strict=True):
        node.name = name
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def data() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)}


def measured(path: Path, data: dict[str, np.ndarray] | None, passes: str | None = None, **options) -> ModelSensitivity:
    return measure_sensitivity(path, passes, data=data, provider="cpu", threads=1, **options)


def printed(found: ModelSensitivity, top: int = 10) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    print_layers_alone(found, console, top=top)
    return console.export_text()


def test_each_layer_and_the_worst_of_them_in_the_terms_of_the_task(path, data):
    found = measured(path, data, "quant:times=estimated:calibration=minmax:rounding=nearest", worst=1)
    assert [row.layer for row in found.layers] == ["fir*st", "second"]
    assert sum(row.share or 0.0 for row in found.layers) == pytest.approx(1)
    assert found.step == "quant:calibration=minmax:rounding=nearest:times=estimated"
    assert found.data.samples == 16, "a quarter measures"
    (worst,) = found.losses
    assert worst.layer == max(found.layers, key=lambda row: row.share or 0.0).layer
    assert worst.loss is not None, "a name with a star is a name"
    assert found.loss is not None
    text = printed(found)
    assert f"of {found.lost} (" in text
    assert "1 more layers" in printed(found, top=1)
    assert json.loads(dumps(found))["layers"][0]["measured_on"] == "outputs"


def test_the_pass_that_tells_is_found_and_what_comes_before_it_runs(path, data):
    found = measured(path, data, "prune:ratio=0.25,quant:times=estimated:calibration=minmax")
    assert found.step.startswith("quant:")
    assert found.layers[0].bytes_before == 16 * 12 * 4, "a quarter of its columns is gone"
    assert not found.losses


def test_weights_alone(path, data):
    found = measured(path, data, "quant:activations=float:weights=int4", worst=5)
    assert {row.measured_on for row in found.layers} == {"outputs"}
    assert len(found.losses) == 2


def test_why_there_are_none(path, data):
    found = measured(path, data, "quant:times=estimated:include=nothing_is_called_so")
    assert not found.layers
    assert found.loss is None
    assert found.layers_reason
    assert found.layers_reason in printed(found)


def test_nothing_is_claimed_of_random_numbers(path):
    found = measured(path, None, "quant:times=estimated:calibration=minmax", worst=1)
    assert found.data.synthetic
    assert found.loss_reason == found.losses[0].loss_reason == "not claimed: the samples are synthetic"


def test_noise_that_is_not_measured_says_why(path, data):
    found = measured(path, data, "quant:times=estimated:calibration=minmax:rounding=nearest:float_time=0")
    assert "Noise: not measured: nothing that was asked for depends on it" in printed(found)


def test_passes_that_say_nothing_of_layers_are_refused(path, data):
    with pytest.raises(UsageError, match="no pass is named that says what layers cost") as error:
        measured(path, data, "prune")
    assert "quant" in str(error.value.hint)


def test_layers_without_a_name_go_by_what_they_make_and_budgets_do_not_take_them_back(path, data):
    model = ir.load(path)
    for node in model.graph:
        node.name = ""
    ir.save(model, path)
    found = measured(path, data, "quant:times=estimated:calibration=minmax:rounding=nearest:error=0.5", worst=1)
    assert [row.layer for row in found.layers] == ["p", "y"]
    (worst,) = found.losses
    assert worst.loss is not None, worst.loss_reason
