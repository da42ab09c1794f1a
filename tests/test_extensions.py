"""Packages of others add passes, metrics, sources and providers; what is wrong with one is said, and breaks nothing."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
from classifier import classifier
from outside import install
from zoo import ROOT

from onnxslim.errors import ExtensionError, UnknownPass
from onnxslim.extensions import Group, extension_names
from onnxslim.pipeline.discovery import find_pass
from onnxslim.pipeline.interface import Pass
from onnxslim.quality.metric import Metric

PASS = '''"""Removes Identity nodes."""

import dataclasses
from typing import Annotated, ClassVar

import onnxslim


@dataclasses.dataclass(frozen=True)
class Trim(onnxslim.Pass):
    """Removes Identity nodes."""

    name: ClassVar[str] = "trim"
    kind: ClassVar[onnxslim.Kind] = onnxslim.Kind.EXACT
    most: Annotated[int, "remove at most so many"] = 1000

    def run(self, model, context):
        print("a pass may print")
        notes = []
        for node in list(model.graph):
            if node.op_type == "Identity" and len(notes) < self.most:
                node.outputs[0].replace_all_uses_with(node.inputs[0])
                model.graph.remove(node, safe=True)
                notes.append(onnxslim.Note(node.name, "removed"))
        return onnxslim.Change(bool(notes), tuple(notes))
'''
METRIC = '''"""Whether the first number keeps its sign."""

import dataclasses
from typing import ClassVar

import onnxslim


@dataclasses.dataclass(frozen=True)
class Sign(onnxslim.Metric):
    """Whether the first number keeps its sign."""

    output: str
    name: ClassVar[str] = "sign"
    reads_labels: ClassVar[bool] = False

    @classmethod
    def recognise(cls, evidence):
        return onnxslim.Recognition(cls(evidence.outputs[0].name), 0.5, "it has numbers")

    def row(self, reference, candidate, label):
        if candidate is None:
            return [0.0]
        return [float(reference[self.output].flat[0] * candidate[self.output].flat[0] > 0)]

    def figures(self, rows):
        return {"same sign": onnxslim.Figure(1.0, rows.mean())}
'''
SOURCE = '''"""Samples that are all the same."""

import numpy as np


def constant(location, inputs, preprocess):
    """Return as many samples as `location` says."""
    count = int(location)
    return {spec.name: np.ones((count, *spec.shape[1:]), spec.dtype) for spec in inputs}
'''
PROVIDER = """execution_provider = "CPUExecutionProvider"
title = "the toy"
energy = "none"

[int8]
activations = "uint8"

[int8.ops.MatMul]
role = "contraction"
data = [0, 1]
weight = 1
rank = 2
packing = "plain"
becomes = "MatMulIntegerToFloat"
"""
FILES = {
    "toy/__init__.py": '"""A package that extends onnxslim."""\n',
    "toy/trim.py": PASS,
    "toy/sign.py": METRIC,
    "toy/constant.py": SOURCE,
    "toy/toy.toml": PROVIDER,
}
ENTRY_POINTS = {
    "onnxslim.passes": {"trim": "toy.trim:Trim"},
    "onnxslim.metrics": {"sign": "toy.sign:Sign"},
    "onnxslim.sources": {"constant": "toy.constant:constant"},
    "onnxslim.providers": {"toy": "toy"},
}


def command_line(folder: pathlib.Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run onnxslim in a process of its own, with the distributions in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "onnxslim", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "model.onnx"
    ir.save(classifier(), path)
    return path


def test_an_outside_package_is_used_from_the_command_line(tmp_path: pathlib.Path, model: pathlib.Path) -> None:
    assert len(PASS.splitlines()) <= 40
    folder = install(tmp_path / "site", "toy-package", FILES, ENTRY_POINTS)
    arguments = ("-p", "trim:most=5,quant", "--metric", "sign", "--data", "constant:32", "--provider", "toy")
    done = command_line(folder, "optimize", model, *arguments, "--no-measure", "--json", "-o", tmp_path / "slim.onnx")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "a pass may print" in done.stderr
    kept = {record["name"]: record["kept"] for record in report["passes"]}
    assert kept == {"trim": True, "simplify": kept["simplify"], "quant": True}
    assert report["quality"]["metric"] == "sign"
    assert report["quality"]["figures"][0]["name"] == "same sign"
    assert report["target"]["provider"] == "toy"
    assert report["data"]["source"] == "constant:32"
    assert "MatMul" in {note["subject"] for record in report["passes"] for note in record["changes"]}
    listed = command_line(folder, "passes")
    assert "Removes Identity nodes." in listed.stdout
    assert listed.stderr == ""


BROKEN = {
    "raises": ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    "leaves": ("import sys; print('hello'); sys.exit(0)", "called sys.exit(0)"),
    "lacks": ("", "AttributeError: module 'broken' has no attribute 'Broken'"),
    "is no pass": ("Broken = 3", "it is no subclass of onnxslim.Pass"),
    "has no kind": ("import onnxslim\nclass Broken(onnxslim.Pass):\n    name = 'broken'\n    run = None", "kind"),
    "has another name": (
        "import onnxslim\nclass Broken(onnxslim.Pass):\n    name = 'b'\n    run = None",
        "name is 'b'",
    ),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_package_is_named_and_the_others_are_listed(tmp_path: pathlib.Path, text: tuple[str, str]) -> None:
    source, told = text
    entry_points = {"onnxslim.passes": {"broken": "broken:Broken"}}
    folder = install(tmp_path, "broken-package", {"broken.py": source}, entry_points)
    listed = command_line(folder, "passes", "--json")
    assert listed.returncode == 0
    names = [entry["name"] for entry in json.loads(listed.stdout)]
    assert "simplify" in names
    assert "broken" not in names
    assert "warning: the distribution broken-package (broken:Broken): broken in onnxslim.passes" in listed.stderr
    assert told in listed.stderr
    assert "hint: update or uninstall broken-package" in listed.stderr
    used = command_line(folder, "optimize", ROOT / "models" / "fashion_resnet8.onnx", "-p", "broken")
    assert (used.returncode, used.stdout) == (1, "")
    assert told in used.stderr


def test_a_name_that_two_packages_have_is_used_by_nobody(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "one", FILES, {"onnxslim.passes": {"trim": "toy.trim:Trim"}})
    install(tmp_path, "two", {}, {"onnxslim.passes": {"trim": "toy.other:Trim", "quant": "toy.trim:Trim"}})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExtensionError, match=r"trim in onnxslim\.passes is declared by one and two") as caught:
        find_pass("trim")
    assert caught.value.hint is not None
    with pytest.raises(ExtensionError, match="declared by onnxslim-compiler and two"):
        find_pass("quant")
    assert find_pass("prune").name == "prune"
    listed = command_line(tmp_path, "passes")
    assert listed.returncode == 0
    assert "prune" in listed.stdout
    assert listed.stderr.count("warning:") == 2


def test_an_outside_package_is_not_imported_before_it_is_named(tmp_path: pathlib.Path, model: pathlib.Path) -> None:
    files = {**FILES, "toy/__init__.py": "raise ZeroDivisionError('imported')"}
    folder = install(tmp_path / "site", "toy-package", files, ENTRY_POINTS)
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 8), np.float32))
    commands = (
        ("--help",),
        ("optimize", "--help"),
        ("inspect", model, "--plan"),
        ("doctor",),
        ("optimize", model, "--no-measure", "--data", tmp_path / "data.npz"),
    )
    for arguments in commands:
        done = command_line(folder, *arguments)
        assert done.returncode == 0, done.stderr
        assert "ZeroDivisionError" not in done.stderr
    for option in (("-p", "trim"), ("--metric", "sign"), ("--data", "constant:3"), ("--provider", "toy")):
        done = command_line(folder, "optimize", model, *option)
        assert (done.returncode, done.stdout) == (1, "")
        assert "ZeroDivisionError: imported" in done.stderr, option


def test_ours_come_through_the_same_door() -> None:
    passes = {path.stem for path in (ROOT / "passes").iterdir() if not path.stem.startswith("_")}
    metrics = {path.stem for path in (ROOT / "onnxslim" / "metrics").iterdir() if not path.stem.startswith("_")}
    providers = {path.stem for path in (ROOT / "onnxslim" / "runtime" / "targets").glob("*.toml")}
    assert set(extension_names(Group.PASSES, ours=True)) == passes
    assert set(extension_names(Group.METRICS, ours=True)) == metrics
    assert set(extension_names(Group.PROVIDERS, ours=True)) == providers
    assert Pass.__doc__
    assert Metric.__doc__


def test_names_that_cannot_be_typed_are_not_seen(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "odd", {}, {"onnxslim.passes": {"a,b": "x:Y", "\x1b[31m": "x:Y", "fine-name": "x:Y"}})
    monkeypatch.syspath_prepend(tmp_path)
    assert {name for name in extension_names(Group.PASSES) if name not in extension_names(Group.PASSES, ours=True)} == {
        "fine-name"
    }
    with pytest.raises(UnknownPass):
        find_pass("a,b")
