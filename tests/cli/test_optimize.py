from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import onnx
import pytest
from page_checks import check_page
from read_report import from_json


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time little: these tests are about what is printed and written."""
    from onnxslim.runtime.latency import ColdStart, Latency, PairedLatency, Percentiles
    from onnxslim.runtime.statistics import Interval, Measured

    one = Latency(Percentiles(1.0, 1.1, 1.2, (0.9, 1.0, 1.3)), 1000.0)
    paired = PairedLatency(one, one, Interval(1.0, 0.9, 1.1))
    monkeypatch.setattr("onnxslim.pipeline.judge.compare_latency", lambda *a, **o: paired)
    monkeypatch.setattr("onnxslim.commands.resources.cold_figures", lambda *a, **o: (ColdStart(3.0, 2.0), None))
    for name in ("peak_memory", "measure_energy"):
        monkeypatch.setattr(f"onnxslim.commands.resources.{name}", lambda *a, **o: Measured(None, "not in this test"))


def test_a_model_goes_through_and_the_table_tells(onnxslim, trim, model: Path, data: Path):
    original = model.read_bytes()
    answer = onnxslim("optimize", model, "-p", "trim", "--data", data, "--val", data, "--max-drop", "0.01")
    assert answer.code == 0, answer.err
    assert answer.err == ""
    output = model.with_name("model.slim.onnx")
    assert [node.op_type for node in onnx.load(output).graph.node] == ["MatMul", "Relu", "MatMul"]
    assert model.read_bytes() == original
    assert answer.out.startswith("Measured on 32 samples with labels: ")
    for words in (
        "Size",
        "Top-1",
        "Metric: classification: ",
        "Budget: at most 1.00 % lost, met",
        "trim",
        "kept",
        "4 -> 3",
        "removed",
    ):
        assert words in answer.out
    assert answer.out.rstrip().replace("\n", "").endswith(str(output))


def test_json_is_the_report_and_the_report_can_be_written(onnxslim, trim, model: Path, tmp_path: Path):
    small, report = tmp_path / "small.onnx", tmp_path / "report.json"
    answer = onnxslim("optimize", model, "-p", "trim:most=1", "-o", small, "--report", report, "--json", "--seed", "5")
    assert answer.code == 0, answer.err
    result = from_json(json.loads(answer.out))
    assert json.loads(report.read_text()) == json.loads(answer.out)
    assert result.seed == 5
    assert result.output.path == str(small)
    assert result.output.sha256 == hashlib.sha256(small.read_bytes()).hexdigest()
    assert result.data.synthetic
    assert [(step.name, step.kept, step.options) for step in result.passes] == [
        ("trim", True, {"most": 1, "exclude": []})
    ]


def test_a_recipe_does_the_same_and_synthetic_data_is_said_first(onnxslim, trim, model: Path, tmp_path: Path):
    recipe = tmp_path / "r.toml"
    recipe.write_text("seed = 7\n[passes.trim]\nmost = 0\n")
    answer = onnxslim("optimize", model, "--recipe", recipe)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("The data is synthetic")
    assert "not kept" in answer.out


def test_passes_may_be_named_one_by_one(onnxslim, trim, model: Path):
    answer = onnxslim("optimize", model, "-p", "trim:most=1", "-p", "trim", "--json")
    assert answer.code == 0, answer.err
    assert [step["options"]["most"] for step in json.loads(answer.out)["passes"]] == [1, None]


@pytest.mark.parametrize("name", ["model.onnx", "link.onnx"])
def test_the_input_is_never_overwritten(onnxslim, trim, model: Path, name: str):
    model.with_name("link.onnx").hardlink_to(model)
    original = model.read_bytes()
    for option in ("-o", "--report"):
        answer = onnxslim("optimize", model, "-p", "trim", option, model.with_name(name))
        assert (answer.code, answer.out) == (1, "")
        assert "would overwrite the input" in answer.err
    assert model.read_bytes() == original


def test_report_and_output_are_not_the_same_file(onnxslim, trim, model: Path, tmp_path: Path):
    answer = onnxslim("optimize", model, "-p", "trim", "-o", tmp_path / "x", "--report", tmp_path / "x")
    assert answer.code == 1
    assert "the report would overwrite the output" in answer.err
    answer = onnxslim("optimize", model, "-p", "trim", "-o", tmp_path)
    assert answer.code == 1
    assert "name of a folder" in answer.err


def test_a_report_may_be_asked_for_as_json_and_as_a_page(onnxslim, trim, model: Path, data: Path, tmp_path: Path):
    page, report = tmp_path / "r.html", tmp_path / "r.json"
    answer = onnxslim("optimize", model, "-p", "trim", "--data", data, "--report", page, "--report", report)
    assert answer.code == 0, answer.err
    assert from_json(json.loads(report.read_text(encoding="utf-8"))).passes[0].name == "trim"
    check_page(page.read_text(encoding="utf-8"))
    assert f"Report in {page}" in answer.out.replace("\n", "")


def test_the_report_says_how_to_make_it_again(onnxslim, trim, model: Path, data: Path, tmp_path: Path):
    answer = onnxslim("optimize", model, "-p", "trim:most=1", "--data", data, "--seed", 3, "--json")
    again = json.loads(answer.out)["reproduction"]
    program, *words = shlex.split(again["command"])
    assert program == "onnxslim"
    repeated = json.loads(onnxslim(*words, "--json").out)
    assert repeated["output"] == json.loads(answer.out)["output"]
    assert repeated["reproduction"] == again
    recipe = tmp_path / "again.toml"
    recipe.write_text(again["recipe"])
    repeated = json.loads(onnxslim("optimize", model, "--recipe", recipe, "--data", data, "--json").out)
    assert repeated["output"] == json.loads(answer.out)["output"]


@pytest.mark.parametrize("name", ["report.txt", "report"])
def test_a_report_of_no_form_is_refused_before_any_work(onnxslim, model: Path, tmp_path: Path, name: str):
    answer = onnxslim("optimize", model, "--report", tmp_path / name)
    assert (answer.code, answer.out) == (2, "")
    assert "no such form" in answer.err
    assert ".html" in answer.err
    assert not model.with_name("model.slim.onnx").exists()
