"""Small files that went wrong once, as users have them: each is optimized as its user would, in a process of its own.

The kinds that they stand for, with their siblings, are tested beside what was mended.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
from typing import Any

import onnx
import pytest
from zoo import ROOT

FOLDER = pathlib.Path(os.environ.get("ONNXSLIM_CASES", ROOT.parent / "shared" / "cases"))
MEMORY = 6_000_000 << 10
"""Bytes of address space that a command may take."""


def case(name: str) -> pathlib.Path:
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the case {name} is not here (set ONNXSLIM_CASES to its folder)")
    return path


def run(*arguments: str | pathlib.Path) -> dict[str, Any]:
    """Run a command of onnxslim under the limit of memory and return what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def optimize(folder: pathlib.Path, name: str, *arguments: str) -> tuple[dict[str, Any], onnx.ModelProto]:
    """Return the report and the model that was written; data of the case's name is given where it is there."""
    data = FOLDER / f"{name}.npz"
    given = ("--data", str(data)) if data.exists() else ()
    out = folder / "out.onnx"
    report = run("optimize", case(f"{name}.onnx"), "-o", out, "--no-measure", *given, *arguments)
    return report, onnx.load(out)


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def widths(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}


def test_channels_that_are_declared_symbolic(tmp_path: pathlib.Path) -> None:
    _, model = optimize(tmp_path, "dynamic_rgb_conv")
    assert ops(model) == ["Conv", "Relu"]


@pytest.mark.parametrize("command", ["optimize", "bench"])
def test_five_symbolic_dimensions(tmp_path: pathlib.Path, command: str) -> None:
    if command == "bench":
        run("bench", case("rank5_all_dynamic.onnx"), "--seconds", "0.1")
    else:
        assert ops(optimize(tmp_path, "rank5_all_dynamic")[1]) == ["Relu", "Neg"]


def test_a_layer_of_rank_6(tmp_path: pathlib.Path) -> None:
    report, model = optimize(tmp_path, "lowrank_exact_rank6", "-p", "lowrank:energy=0.99:pays=size:align=1")
    (note,) = (each for each in report["passes"][-1]["changes"] if each["subject"] == "y")
    assert float(note["reason"].partition("%")[0]) >= 99
    assert sum(onnx.numpy_helper.to_array(tensor).size for tensor in model.graph.initializer) < 6912 / 2


def test_updates_of_a_scatter(tmp_path: pathlib.Path) -> None:
    report, model = optimize(tmp_path, "scatternd_updates", "-p", "prune:exact=true")
    assert report["passes"][-1]["kept"]
    assert widths(model) | {"w3": [12, 3, 3, 3], "w4": [4, 12, 3, 3], "up": [2, 8, 8]} == widths(model)


def test_exact_pruning_without_a_check(tmp_path: pathlib.Path) -> None:
    report, model = optimize(tmp_path, "exact_prune_unchecked", "-p", "prune:exact=true", "--no-check")
    assert report["passes"][-1]["kept"]
    assert widths(model)["w"] == [8, 3, 3, 3]


@pytest.mark.parametrize("command", ["optimize", "inspect", "bench"])
def test_a_constant_with_a_sparse_value(tmp_path: pathlib.Path, command: str) -> None:
    if command == "optimize":
        assert ops(optimize(tmp_path, "constant_sparse_value")[1])[-1] == "Gemm"
    else:
        run(command, case("constant_sparse_value.onnx"), *(("--seconds", "0.1") if command == "bench" else ()))


@pytest.mark.parametrize("goal", ["latency", "size"])
def test_a_tied_weight(tmp_path: pathlib.Path, goal: str) -> None:
    report, _ = optimize(tmp_path, "fold_grows_tied", "--goal", goal)
    assert report["after"]["size_bytes"] <= report["before"]["size_bytes"]


def test_a_transposition_without_perm(tmp_path: pathlib.Path) -> None:
    assert ops(optimize(tmp_path, "transpose_default_perm")[1]) == ["Gemm", "Relu"]
