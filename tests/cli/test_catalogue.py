from __future__ import annotations

import json

import pytest

from onnxslim.cli.options import complete_passes
from onnxslim.pipeline.discovery import pass_names


def test_the_catalogue_lists_every_pass(onnxslim, trim):
    answer = onnxslim("passes")
    assert answer.code == 0, answer.err
    for name in pass_names():
        assert name in answer.out
    assert "Removes Identity nodes." in answer.out
    assert {entry["name"] for entry in json.loads(onnxslim("passes", "--json").out)} == set(pass_names())


def test_one_pass_with_its_options(onnxslim, trim):
    answer = onnxslim("passes", "trim")
    for words in ("trim (exact): Removes Identity nodes.", "They do nothing.", "most", "whole number, or none"):
        assert words in answer.out
    assert "onnxslim optimize model.onnx -p trim\n" in answer.out
    entry = json.loads(onnxslim("passes", "trim", "--json").out)
    assert entry["options"][1] == {
        "name": "exclude",
        "type": "names joined by +",
        "default": [],
        "help": "values to keep",
        "choices": [],
    }


def test_a_pass_that_is_not_there(onnxslim, trim):
    answer = onnxslim("passes", "trin", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert "did you mean trim?" in answer.err


def test_names_of_passes_complete(trim):
    assert "trim" in complete_passes("")
    assert complete_passes("tri") == ["trim"]
    assert complete_passes("simplify,tri") == ["simplify,trim"]


def test_doctor_says_what_there_is(onnxslim, monkeypatch: pytest.MonkeyPatch):
    answer = onnxslim("doctor")
    assert answer.code == 0, answer.err
    for words in ("onnxruntime", "Providers", "Instruction set", "int8 sums", "Energy", "--install-completion"):
        assert words in answer.out
    assert "another project" not in answer.out
    monkeypatch.setattr("onnxslim.commands.doctor.installed", lambda distribution: "0.1.98")
    monkeypatch.setattr("onnxslim.commands.doctor.energy_source", lambda target: ("package-0", None))
    assert "onnxslim 0.1.98, another project" in onnxslim("doctor").out
    machine = json.loads(onnxslim("doctor", "--json").out)
    assert machine["namesake"] == "0.1.98"
    assert machine["energy"] == "package-0"
    assert machine["target"]["provider"] in ("cpu", "cuda")
    assert "CPUExecutionProvider" in machine["providers"]
