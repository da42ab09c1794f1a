"""Whatever a user may get wrong: one clear error, the right exit code, no traceback, nothing half-written."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from classifier import classifier

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(range(256)) * 4


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check(answer, code: int, *words: str) -> None:
    """One error in the one form, and nothing on standard output."""
    assert answer.code == code, answer.err
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert answer.err.count("error: ") == 1
    assert "hint: " in answer.err
    assert "Traceback" not in answer.err
    assert "bug in onnxslim" not in answer.err
    for word in words:
        assert word in answer.err, answer.err


def missing(path: Path) -> str:
    return "no such file"


def empty(path: Path) -> str:
    path.write_bytes(b"")
    return "empty"


def truncated(path: Path) -> str:
    ir.save(classifier(), path)
    path.write_bytes(path.read_bytes()[:-300])
    return "truncated"


def jpeg(path: Path) -> str:
    path.write_bytes(JPEG)
    return "not an ONNX model"


def without_weights(path: Path) -> str:
    ir.save(classifier(), path, external_data="weights.bin")
    path.with_name("weights.bin").unlink()
    return "weights.bin"


@pytest.mark.parametrize("command", ["optimize", "inspect", "bench", "compare"])
@pytest.mark.parametrize("spoil", [missing, empty, truncated, jpeg, without_weights])
def test_a_model_that_is_none(onnxslim, trim, model: Path, command: str, spoil):
    path = model.with_name("bad.onnx")
    words = spoil(path)
    before = listing(model.parent)
    more = {"optimize": ["-p", "trim"], "compare": [model]}.get(command, [])
    check(onnxslim(command, path, *more), 1, "bad.onnx", words)
    assert listing(model.parent) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "trin"], ["no pass named 'trin'", "did you mean trim?"]),
        (["-p", "trim:mots=1"], ["no option 'mots'", "did you mean most?", "most, exclude"]),
        (["-p", "trim:most=many"], ["'many'", "whole number, or none"]),
        (["-p", "trim", "--provider", "tpu"], ["'tpu'", "auto, cpu, cuda"]),
        (["-p", "trim", "--goal", "fame"], ["'fame'", "latency or size"]),
        (["-p", "trim", "--max-drop", "7"], ["--max-drop", "0.01 is one point"]),
        (["-p", "trim", "--threads", "0"], ["--threads"]),
        (["-p", "trim", "--seed", "-1"], ["--seed"]),
        (["-p", "trim", "--metric", "nosuchmodule:f"], ["nosuchmodule"]),
        (["-p", "trim", "--recipe", "none.toml"], ["none.toml", "no such recipe"]),
    ],
)
def test_a_request_that_cannot_be_understood(onnxslim, trim, model: Path, arguments, words):
    before = listing(model.parent)
    check(onnxslim("optimize", model, *arguments), 2, *words)
    assert listing(model.parent) == before


def test_data_that_does_not_fit(onnxslim, trim, model: Path, tmp_path: Path):
    wrong = tmp_path / "wrong.npz"
    cases = [
        (wrong, {"y": np.zeros((4, 8), np.float32), "z": np.zeros(4)}, "x"),
        (wrong, {"x": np.zeros((4, 9), np.float32)}, "wrong.npz"),
        (wrong, None, "wrong.npz"),
        (tmp_path / "nowhere.npz", None, "no such file"),
    ]
    for path, arrays, word in cases:
        if arrays is not None:
            np.savez(path, **arrays)
        elif path == wrong:
            wrong.write_bytes(b"PK\x03\x04 no archive")
        before = listing(tmp_path)
        for command in (("optimize", model, "-p", "trim"), ("bench", model), ("compare", model, model)):
            answer = onnxslim(*command, "--data", path)
            assert answer.code == 1, answer.err
            assert answer.err.startswith("error: ")
            assert word in answer.err
            assert "bug in onnxslim" not in answer.err
        assert listing(tmp_path) == before


def test_a_folder_that_cannot_be_written(onnxslim, trim, model: Path, monkeypatch):
    for target in (model / "inside-a-file.onnx", model.parent / "nowhere" / "x.onnx"):
        check(onnxslim("optimize", model, "-p", "trim", "-o", target), 1, target.name, "cannot be written")

    def forbidden(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    # root may write everywhere, so that a folder without the permission would prove nothing
    monkeypatch.setattr("tempfile.mkdtemp", forbidden)
    before = listing(model.parent)
    check(onnxslim("optimize", model, "-p", "trim"), 1, "model.slim.onnx", "Permission denied", "writable")
    assert listing(model.parent) == before


@pytest.mark.parametrize("call", ["onnx_ir.save", "os.replace"])
def test_a_disk_that_is_full(onnxslim, trim, model: Path, monkeypatch, call: str):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, full)
    before = {path.name for path in model.parent.iterdir()}
    check(onnxslim("optimize", model, "-p", "trim"), 1, "No space left on device")
    assert {path.name for path in model.parent.iterdir()} == before


def test_a_real_limit_on_the_size_of_files(tmp_path: Path):
    path = tmp_path / "model.onnx"
    ir.save(classifier(width=20_000), path)
    limit = 200_000
    assert path.stat().st_size > limit
    before = listing(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim", "optimize", str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "File too large" in done.stderr
    assert listing(tmp_path) == before


SLOW = """
import pathlib, time
import numpy as np

def samples():
    pathlib.Path("started").touch()
    time.sleep(60)
    yield {"x": np.zeros((1, 8), np.float32)}
"""


def heed_interrupts() -> None:
    """Undo what a shell and nohup do for jobs in the background: they, and what they start, are deaf to signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_control_c_in_mid_run(model: Path, tmp_path: Path, number: int):
    (tmp_path / "slow.py").write_text(SLOW)
    before = listing(model.parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxslim", "optimize", str(model), "--data", "slow:samples"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err == "error: interrupted\n\nhint: nothing was left half-written; start it again\n"
    assert listing(model.parent) == before
