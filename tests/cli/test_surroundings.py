"""Where the command line is run: standard output that is full, closed or ASCII, and no home folder."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import onnx
import pytest

FULL = pathlib.Path("/dev/full")


def run_apart(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "onnxslim", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **more)  # type: ignore[call-overload]


@pytest.mark.skipif(not FULL.exists(), reason="there is no device here that is always full")
@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["optimize", "--no-measure"]])
def test_standard_output_that_is_full(model: pathlib.Path, arguments: list[str]) -> None:
    with FULL.open("w") as full:
        done = run_apart(arguments[0], model, *arguments[1:], stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device\n\nhint: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["optimize", "--no-measure"]])
def test_standard_output_that_is_closed(model: pathlib.Path, arguments: list[str]) -> None:
    done = run_apart(arguments[0], model, *arguments[1:], preexec_fn=lambda: os.close(1))
    assert "Traceback" not in done.stderr
    assert "bug in onnxslim" not in done.stderr
    assert done.returncode in (0, 1)
    assert sorted(each.name for each in model.parent.iterdir()) in (
        ["model.onnx"],
        ["model.onnx", "model.slim.onnx"],
    )


def test_standard_output_in_ascii(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    proto = onnx.load(model)
    proto.graph.node[0].name = "größe_层"
    onnx.save(proto, model)
    path = pathlib.Path(shutil.copy(model, tmp_path / "größe.onnx"))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "100"}
    for arguments in (["inspect"], ["optimize", "--no-measure", "-o", tmp_path / "out.onnx"]):
        done = run_apart(arguments[0], path, *arguments[1:], env=environment, stdout=subprocess.PIPE)
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()
    failed = run_apart("inspect", tmp_path / "größer.onnx", env=environment, stdout=subprocess.PIPE)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "gr\\xf6\\xdfer.onnx" in failed.stderr


def test_without_a_home_folder(onnxslim, model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "ONNXSLIM_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def homeless(cls: type[pathlib.Path]) -> pathlib.Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", classmethod(homeless))
    answer = onnxslim("optimize", model, "-p", "prune,lowrank:rank=0.5")
    assert answer.code == 0, answer.err
    assert onnxslim("doctor").code == 0
