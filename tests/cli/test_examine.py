from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import RESIDUAL
from classifier import classifier
from page_checks import check_page

from onnxslim.commands.bench import bench
from onnxslim.runtime.statistics import Interval, Measured


@pytest.fixture(autouse=True)
def _no_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxslim.commands.resources.peak_memory", lambda *a, **o: Measured(4e6))


def test_inspect_shows_what_a_model_is(onnxslim, trim, model: Path):
    answer = onnxslim("inspect", model)
    assert answer.code == 0, answer.err
    for words in (
        "768",
        "x: float [N, 8]",
        "logits: float [N, 4]",
        "MatMul 2, Identity 1, Relu 1",
        "ai.onnx 18",
        "trim",
    ):
        assert words in answer.out
    figures = json.loads(onnxslim("inspect", model, "--json", "--top", 1).out)
    assert figures["parameters"] == figures["macs"] == 768
    assert figures["nodes"] == 4
    assert figures["inputs"] == [{"name": "x", "type": "float", "shape": ["N", 8]}]
    assert [(node["op_type"], node["macs"]) for node in figures["costly"]] == [("MatMul", 512)]
    assert "trim" in figures["passes"]


def test_inspect_tells_what_the_file_says_and_does_not_read_brackets_as_colours(onnxslim, model: Path):
    strange = classifier()
    strange.metadata_props["made [red]"] = "with [bold]care"
    strange.producer_name, strange.producer_version = "a hand", "1"
    strange.graph[0].name = "[red]node"
    ir.save(strange, model)
    answer = onnxslim("inspect", model)
    for words in ("made [red]: with [bold]care", "Made by", "a hand 1", "[red]node"):
        assert words in answer.out


def test_inspect_of_what_is_no_tensor_and_of_unknown_sizes(onnxslim, tmp_path: Path):
    text = """
    <ir_version: 10, opset_import: ["": 18, "my.domain": 1]>
    strange (float[?, 2] x) => (seq(float) s, float y) {
        s = SequenceConstruct (x)
        y = my.domain.Mystery (x)
    }
    """
    path = tmp_path / "strange.onnx"
    ir.save(ir.from_onnx_text(text), path)
    answer = onnxslim("inspect", path)
    assert answer.code == 0, answer.err
    for words in ("x: float [?, 2]", "s: sequence", "my.domain.Mystery", "Not counted"):
        assert words in answer.out


def test_inspect_groups_tells_what_goes_together_and_what_cannot_go(onnxslim, tmp_path: Path):
    path = tmp_path / "residual.onnx"
    ir.save(RESIDUAL, path)
    answer = onnxslim("inspect", path, "--groups")
    assert answer.code == 0, answer.err
    shown = " ".join(answer.out.split())  # where lines break depends on how long the path is
    for words in ("1 groups of channels", "w1", "cannot be cut", "graph input", "graph output", "w3[0]"):
        assert words in shown
    result = json.loads(onnxslim("inspect", path, "--groups", "--json").out)
    (group,) = result["groups"]
    assert (group["name"], group["channels"], group["width"], group["weights"]) == ("w1", 16, 1, 8)
    assert 0 < group["macs_per_channel"] < group["macs"] < result["macs"]
    assert [each["reason"] for each in result["frozen"]] == ["graph output", "graph input"]
    assert result["frozen"][0]["examples"] == ["w3[0]"]


def test_bench_compares_each_model_with_the_first(onnxslim, model: Path):
    answer = onnxslim("bench", model, model, model, "--seconds", "0.1", "--json")
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    first, second, third = result["models"]
    assert first["speedup"] is None
    assert first["speedup_reason"]
    for other in (second, third):
        assert other["speedup"].keys() == {"value", "low", "high"}
        assert other["peak_memory_bytes"] == 4_000_000


def test_bench_prints_a_column_a_model_and_why_something_is_missing(onnxslim, model: Path, data: Path, monkeypatch):
    monkeypatch.setattr("onnxslim.commands.resources.measure_energy", lambda *a, **o: Measured(None, "no counters"))
    answer = onnxslim("bench", model, model, "--data", data, "--seconds", "0.1", "--threads", "1")
    assert answer.code == 0, answer.err
    for words in ("model.onnx", "Latency, median", "95 % within", "Against the first", "No energy: no counters"):
        assert words in answer.out
    assert answer.out.count("no counters") == 1


def test_models_that_take_other_inputs_are_not_compared(onnxslim, model: Path, tmp_path: Path):
    text = '<ir_version: 10, opset_import: ["": 18]> g (float[2] other) => (float[2] y) { y = Relu (other) }'
    path = tmp_path / "other.onnx"
    ir.save(ir.from_onnx_text(text), path)
    for command in ("bench", "compare"):
        answer = onnxslim(command, model, path)
        assert answer.code == 1
        assert answer.out == ""
        assert "bug in onnxslim" not in answer.err


def test_compare_says_how_close_and_how_good(onnxslim, model: Path, data: Path, tmp_path: Path):
    noisy = classifier()
    weight = noisy.graph.initializers["w2"]
    weight.const_value = ir.tensor(np.round(weight.const_value.numpy() * 4) / 4, name="w2")
    candidate = tmp_path / "noisy.onnx"
    ir.save(noisy, candidate)
    answer = onnxslim("compare", model, candidate, "--data", data, "--json")
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert 0.5 < result["fidelity"]["agreement"]["value"] <= 1
    assert 10 < result["fidelity"]["sqnr_db"]["value"] < 40
    assert [output["name"] for output in result["outputs"]] == ["logits"]
    assert result["reference_accuracy"].keys() == {"value", "low", "high"}
    answer = onnxslim("compare", model, candidate, "--data", data)
    assert "Top-1" in answer.out
    assert "points" in answer.out


def test_compare_without_data_or_labels(onnxslim, model: Path):
    answer = onnxslim("compare", model, model)
    assert answer.out.startswith("The data is synthetic")
    assert "identical" in " ".join(answer.out.split())
    assert "Accuracy: the samples carry no labels" in answer.out


def test_compare_of_several_outputs_tells_them_apart(onnxslim, tmp_path: Path):
    text = """
    <ir_version: 10, opset_import: ["": 18]>
    two (float[2] x) => (float[2] y, float[2] z) { y = Relu (x) z = Abs (x) }
    """
    path = tmp_path / "two.onnx"
    ir.save(ir.from_onnx_text(text), path)
    answer = onnxslim("compare", path, path)
    for name in ("all together", "y", "z"):
        assert name in answer.out


def test_a_metric_of_ones_own(onnxslim, model: Path, data: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "halves.py").write_text(
        "import numpy\n\n\ndef score(outputs, labels):\n    return numpy.full(len(labels), 0.5)\n"
    )
    monkeypatch.chdir(tmp_path)
    result = json.loads(onnxslim("compare", model, model, "--data", data, "--metric", "halves:score", "--json").out)
    assert result["candidate_accuracy"]["value"] == 0.5


def test_the_benchmark_as_a_function(model: Path):
    result = bench([model], seconds=0.1)
    assert result.models[0].path == str(model)
    assert not isinstance(result.models[0].speedup, Interval)


def test_a_metric_by_name(onnxslim, model: Path, data: Path):
    result = json.loads(onnxslim("compare", model, model, "--data", data, "--metric", "sqnr", "--json").out)
    assert result["quality"]["metric"] == "sqnr"
    assert [warning["code"] for warning in result["diagnostics"]] == ["labels-unread"]
    answer = onnxslim("compare", model, model, "--data", data, "--metric", "detection")
    assert (answer.code, answer.out) == (2, "")
    assert "no output fits detection" in answer.err
    answer = onnxslim("compare", model, model, "--data", data, "--metric", "clasification")
    assert answer.code == 2
    assert "did you mean classification?" in answer.err
    assert "embedding" in onnxslim("compare", "--help").out


def test_compare_tells_how_large_and_how_fast_both_are(onnxslim, model: Path, data: Path):
    answer = onnxslim("compare", model, model, "--data", data, "--json")
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert result["reference_bytes"] == result["candidate_bytes"] == model.stat().st_size
    assert result["speedup"]["low"] <= result["speedup"]["value"] <= result["speedup"]["high"]
    assert result["reference_latency_ms"]["p50"] > 0
    assert result["candidate_latency_ms"]["p99"] > 0
    printed = onnxslim("compare", model, model, "--data", data).out
    assert "Size" in printed
    assert "the same" in printed
    assert "Latency, median" in printed


def test_compare_times_nothing_where_it_is_told_so(onnxslim, model: Path, monkeypatch):
    monkeypatch.setattr("onnxslim.commands.compare.compare_latency", None)
    answer = onnxslim("compare", model, model, "--no-measure", "--json")
    result = json.loads(answer.out)
    assert result["speedup"] is None
    assert result["speedup_reason"] == "not timed: --no-measure"
    assert result["reproduction"]["command"].endswith("--no-measure")


@pytest.mark.parametrize("command", ["bench", "compare"])
def test_a_report_is_written_as_a_page_and_as_json(onnxslim, model: Path, tmp_path: Path, command: str):
    page, data = tmp_path / "r.html", tmp_path / "r.json"
    more = ("--seconds", "0.1") if command == "bench" else ()
    answer = onnxslim(command, model, model, "--report", page, "--report", data, "--json", *more)
    assert answer.code == 0, answer.err
    check_page(page.read_text(encoding="utf-8"))
    assert json.loads(data.read_text(encoding="utf-8")) == json.loads(answer.out)
    assert json.loads(answer.out)["reproduction"]["command"].startswith(f"onnxslim {command} {model} {model} ")


@pytest.mark.parametrize("command", ["bench", "compare"])
def test_a_report_that_cannot_be_written_is_refused_first(onnxslim, model: Path, tmp_path: Path, command: str):
    answer = onnxslim(command, model, model, "--report", model)
    assert (answer.code, "would overwrite the input" in answer.err) == (1, True)
    assert onnxslim(command, model, model, "--report", tmp_path / "r.pdf").code == 2
