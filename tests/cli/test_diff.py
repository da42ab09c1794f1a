"""--diff: what changed is on standard output, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path


def test_optimize_prints_the_change_and_the_tables_apart(onnxslim, model: Path, tmp_path: Path):
    out = tmp_path / "out.onnx"
    answer = onnxslim("optimize", model, "-o", out, "--no-measure", "--diff")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[:2] == [f"--- {model}", f"+++ {out}"]
    assert {line[:2] for line in lines[2:]} <= {"@@", "- ", "+ ", "# "}
    assert any(line.startswith("- ") and "Identity" in line for line in lines)
    assert "Nodes" in answer.err
    assert "\x1b" not in answer.out


def test_json_has_it_under_a_key_of_its_own(onnxslim, model: Path, tmp_path: Path):
    out = tmp_path / "out.onnx"
    record = json.loads(onnxslim("optimize", model, "-o", out, "--no-measure", "--diff", "--json").out)
    assert record["difference"]["regions"][0].keys() >= {"before", "after", "times"}
    assert record["passes"]
    assert "difference" not in json.loads(onnxslim("compare", model, out, "--json").out)


def test_compare_prints_the_same(onnxslim, model: Path, tmp_path: Path):
    out = tmp_path / "out.onnx"
    first = onnxslim("optimize", model, "-o", out, "--no-measure", "--diff").out
    answer = onnxslim("compare", model, out, "--diff")
    assert answer.code == 0, answer.err
    assert answer.out == first
    assert "largest error" in " ".join(answer.err.split())
    record = json.loads(onnxslim("compare", model, out, "--diff", "--json").out)
    assert record["difference"]["before"] == str(model)
