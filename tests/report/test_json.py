from __future__ import annotations

import dataclasses
import json
import math
import os

import pytest
from hypothesis import HealthCheck, given, settings
from read_report import from_json
from report_strategies import reports, sample_report

from onnxslim.errors import OutputError
from onnxslim.pipeline.records import Budget, ModelFile, OutputFigures, Report, SliceFigures
from onnxslim.report.destination import save_report
from onnxslim.report.json import dumps, to_json


@given(reports)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_report_survives_the_way_through_text(report: Report):
    assert from_json(json.loads(dumps(report))) == report


def test_the_keys_are_the_contract():
    data = to_json(sample_report())
    assert list(data) == [
        *("onnxslim", "seed", "input", "output", "target", "data", "before", "after"),
        *("ratio", "fidelity", "quality", "budget", "passes", "diagnostics", "reproduction"),
    ]
    assert data["input"].keys() == data["output"].keys() == {"path", "sha256"}
    assert data["target"].keys() == {"provider", "device", "instruction_set", "threads"}
    assert data["data"].keys() == {"source", "samples", "labels", "synthetic", "subsets"}
    figures = {
        "size_bytes",
        "compressed_bytes",
        "parameters",
        "macs",
        "nodes",
        "latency_ms",
        "load_ms",
        "first_run_ms",
        "throughput_per_s",
        "peak_memory_bytes",
    }
    extras = {"energy_mj", "energy_reason", "accuracy", "accuracy_interval"}
    assert data["before"].keys() == data["after"].keys() == figures | extras
    assert data["before"]["latency_ms"].keys() == {"p50", "p95", "p99", "quantiles"}
    assert data["before"]["energy_mj"] is None
    assert data["before"]["energy_reason"] == "no RAPL counters here"
    assert data["before"]["accuracy_interval"] == [0.922, 0.944]
    assert data["ratio"].keys() == {"size", "parameters", "macs", "latency"}
    assert data["ratio"]["latency"] == {"value": 2.31, "low": 2.25, "high": 2.37}
    assert data["fidelity"].keys() == {"agreement", "sqnr_db", "cosine", "max_abs_error"}
    assert data["quality"].keys() == {"metric", "chosen", "lost", "loss", "figures", "outputs"}
    assert data["quality"]["figures"][0].keys() == {"name", "before", "after", "change", "unit"}
    assert data["quality"]["outputs"][0]["slices"] == [
        {"name": "scores", "sqnr_db": {"value": 8.5, "low": 8.0, "high": 9.0}}
    ]
    assert data["budget"] == {
        "max_drop": 0.01,
        "met": True,
        "samples_needed": None,
        "confidence": 0.95,
        "samples_needed_reason": "it is settled",
    }
    keys = {"name", "options", "kind", "kept", "reason", "seconds", "nodes", "changes", "layers", "asked"}
    keys |= {"attempts", "reasons", "sensitivity"}
    assert all(step.keys() == keys for step in data["passes"])
    assert data["passes"][0]["layers"][0] == {
        "layer": "/layer0/Conv",
        "op": "Conv",
        "quantity": "channels",
        "before": 64,
        "after": 48,
        "macs_before": 9_400_000,
        "macs_after": 7_100_000,
    }
    assert data["passes"][1]["sensitivity"][0] == {
        "layer": "/layer0/Conv",
        "op": "Conv",
        "sqnr_db": 31.2,
        "measured_on": "outputs",
        "share": 0.75,
        "bytes_before": 36_864,
        "bytes_after": 9_216,
        "saved_ms": None,
        "became": "float",
        "why": "it brings 75.0% of the error",
        "saved_reason": "not measured",
    }
    assert data["passes"][1]["nodes"] == [50, 61]
    assert data["passes"][1]["changes"][0] == {
        "subject": "/layer0/Conv[0]",
        "action": "int8",
        "reason": "per channel",
        "kind": "done",
        "code": "",
        "nodes": [],
        "values": [],
    }


def test_keys_of_later_versions_are_passed_over_and_missing_ones_are_named():
    data = to_json(sample_report())
    assert from_json({**data, "carbon": 3}) == sample_report()
    del data["before"]["macs"]
    with pytest.raises(ValueError, match=r"report\.before has no key 'macs'"):
        from_json(data)
    with pytest.raises(ValueError, match=r"report\.before must be an object"):
        from_json({**data, "before": 3})


def test_a_null_must_say_why_and_a_number_must_be_one():
    report = sample_report()
    with pytest.raises(ValueError, match="path_reason does not say why"):
        dataclasses.replace(report, input=ModelFile(None, "ab"))
    with pytest.raises(ValueError, match=r"Budget\.max_drop is nan: no number that JSON can hold"):
        dataclasses.replace(report, budget=Budget(math.nan, True, 1, 0.9))
    slices = (SliceFigures("boxes", None),)
    outputs = (OutputFigures("y", report.fidelity, slices),)
    with pytest.raises(ValueError, match="sqnr_reason does not say why"):
        dataclasses.replace(report, quality=dataclasses.replace(report.quality, outputs=outputs))


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    save_report(sample_report(), path)
    assert from_json(json.loads(path.read_text(encoding="utf-8"))) == sample_report()
    with pytest.raises(OutputError, match="cannot be written"):
        save_report(sample_report(), path / "inside-a-file.json")
    monkeypatch.setattr(os, "replace", _full_disk)
    old = path.read_bytes()
    with pytest.raises(OutputError, match="No space left"):
        save_report(sample_report(), path)
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]
    assert path.read_bytes() == old


def _full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")
