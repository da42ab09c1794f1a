"""The command that says where a model runs: its figures add up, and tables and JSON say the same."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from quantized_models import save_pairs_around_floats
from rich.console import Console
from sample_models import from_text

from onnxslim.commands.placement import ModelPlacement, place_model
from onnxslim.report.placement import print_placement
from onnxslim.runtime import target
from onnxslim.runtime.provider import load_provider


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_pairs_around_floats(tmp_path)


def printed(placement: ModelPlacement, top: int = 10) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    print_placement(placement, console, top=top)
    return console.export_text()


def test_figures_add_up(path: Path) -> None:
    found = place_model(path, provider="cpu", threads=1)
    assert {name: figures.nodes for name, figures in found.places.items()} == {"int8": 1, "float": 2, "conversion": 0}
    times = [figures.time_ms or 0.0 for figures in found.places.values()]
    assert sum(times) == pytest.approx(found.time_ms)
    assert sum(figures.share or 0.0 for figures in found.places.values()) == pytest.approx(1)
    assert {conversion.purpose for conversion in found.wasted} == {"pair around floats"}
    assert sorted(op for kernel in found.kernels for op in kernel.ops) == ["Conv", "HardSigmoid", "Tanh"]
    assert ("hard",) in [kernel.nodes for kernel in found.kernels]


def test_the_sample_may_be_given(path: Path) -> None:
    found = place_model(path, data={"x": np.zeros((1, 4, 8, 8), np.float32)}, provider="cpu", threads=1)
    assert "synthetic" not in found.source


def test_without_times_the_places_are_told_and_why(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = dataclasses.replace(load_provider("cpu"), node_times=False)
    monkeypatch.setattr(target, "load_provider", lambda name: silent)
    found = place_model(path, provider="cpu", threads=1)
    assert found.time_ms is None
    assert found.time_reason == "ONNX Runtime does not tell how long a node takes on cpu"
    assert "cost time and bring none (" in printed(found)


def test_a_model_of_floats_has_no_conversions(tmp_path: Path) -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Tanh (x) }'
    ir.save(from_text(text), tmp_path / "tanh.onnx")
    found = place_model(tmp_path / "tanh.onnx", provider="cpu", threads=1)
    assert found.conversions == ()
    assert "conversion" not in printed(found)
