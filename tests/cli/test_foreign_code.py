"""What users bring along: functions that exit or print, files that are none, archives that are damaged."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

FUNCTIONS = """
import sys
import numpy as np
from onnxslim.quality.metric import Figure, Metric, Recognition

print("at import")

def samples():
    print("in a function")
    for _ in range(8):
        yield {"x": np.zeros((1, 8), np.float32)}

def leaves():
    sys.exit(0)

def leaves_late():
    yield {"x": np.zeros((1, 8), np.float32)}
    sys.exit(0)

def top(outputs, labels):
    sys.exit("done")

class Chatty(Metric):
    name = "chatty"

    @classmethod
    def recognise(cls, evidence):
        print("in recognise")
        return Recognition(cls(), 1.0, "always")

    def row(self, reference, candidate, label):
        print("in row")
        return [1.0, float(candidate is not None)]

    def figures(self, rows):
        return {"share": Figure(rows[:, 0].mean(), rows[:, 1].mean())}

class Leaving(Chatty):
    def row(self, reference, candidate, label):
        sys.exit(0)

class Shy(Chatty):
    @classmethod
    def recognise(cls, evidence):
        raise LookupError("nothing for me")

class Clumsy(Chatty):
    def figures(self, rows):
        return {"share": 1 / 0}

def escapes():
    raise ValueError("\\x1b[31mred")
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the current folder, under a name of its own."""
    name = f"functions_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return name


def test_what_functions_print_does_not_spoil_json(onnxslim, trim, model: Path, functions: str) -> None:
    answer = onnxslim("optimize", model, "-p", "trim", "--no-measure", "--json", "--data", f"{functions}:samples")
    assert answer.code == 0, answer.err
    json.loads(answer.out)
    assert "in a function" in answer.err


@pytest.mark.parametrize("function", ["leaves", "leaves_late"])
def test_a_function_that_exits_is_an_error(onnxslim, trim, model: Path, functions: str, function: str) -> None:
    before = sorted(model.parent.iterdir())
    answer = onnxslim("optimize", model, "-p", "trim", "--no-measure", "--data", f"{functions}:{function}")
    assert answer.code == 2
    assert "sys.exit(0)" in answer.err
    assert "hint: " in answer.err
    assert sorted(model.parent.iterdir()) == before


def test_what_functions_raise_is_printed_without_escapes(onnxslim, trim, model: Path, functions: str) -> None:
    answer = onnxslim("optimize", model, "-p", "trim", "--data", f"{functions}:escapes")
    assert "\\x1b[31mred" in answer.err
    assert "\x1b" not in answer.err


def test_what_a_metric_prints_does_not_spoil_json(onnxslim, trim, model: Path, functions: str) -> None:
    metric = f"{functions}:Chatty"
    answer = onnxslim("optimize", model, "-p", "trim", "--json", "--data", f"{functions}:samples", "--metric", metric)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["quality"]["metric"] == "chatty"
    assert "in recognise" in answer.err
    assert "in row" in answer.err


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("top", "sys.exit('done')"),
        ("Leaving", "sys.exit(0)"),
        ("Shy", "the metric raised LookupError: nothing for me"),
        ("Clumsy", "the metric raised ZeroDivisionError"),
    ],
)
def test_a_metric_that_exits_or_raises_is_an_error(
    onnxslim, trim, model: Path, data: Path, functions: str, metric: str, words: str
) -> None:
    before = sorted(model.parent.iterdir())
    answer = onnxslim("optimize", model, "-p", "trim", "--data", data, "--metric", f"{functions}:{metric}")
    assert answer.code == 2, answer.err
    assert words in answer.err
    assert "--metric" in answer.err
    assert "hint: " in answer.err
    assert sorted(model.parent.iterdir()) == before


def test_a_pipe_among_images_is_not_read(onnxslim, trim, tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    answer = onnxslim("optimize", model, "-p", "trim", "--data", folder)
    assert answer.code in (1, 2), answer.err
    assert "bug in onnxslim" not in answer.err
    assert "hint: " in answer.err


@pytest.mark.parametrize("option", ["--data", "--val", "--recipe"])
def test_devices_and_pipes_are_not_read(onnxslim, trim, model: Path, tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for place in (tmp_path / "pipe.npz", "/dev/zero"):
        answer = onnxslim("optimize", model, "-p", "trim", option, place)
        assert answer.code in (1, 2)
        assert "a device or a pipe" in answer.err


def test_a_pipe_is_no_model(onnxslim, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    assert "a device or a pipe" in onnxslim("inspect", tmp_path / "model.onnx").err


def damaged(path: Path, kind: str) -> None:
    np.savez(path, x=np.zeros((8, 8), np.float32))
    data = bytearray(path.read_bytes())
    if kind == "encrypted":
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.find(signature) + offset] |= 1
        path.write_bytes(data)
        return
    header = {"nested": "(" * 90, "words": "{'descr': what, 'fortran_order': False, 'shape': (8, 8)}"}.get(kind, "")
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA if kind == "lzma" else zipfile.ZIP_STORED) as archive:
        archive.writestr("x.npy", bytes(data) if kind == "lzma" else body)
    if kind == "lzma":
        data = bytearray(path.read_bytes())
        data[60:120] = bytes(60)
        path.write_bytes(data)


@pytest.mark.parametrize("kind", ["encrypted", "lzma", "nested", "words"])
def test_damaged_archives(onnxslim, trim, model: Path, tmp_path: Path, kind: str) -> None:
    damaged(tmp_path / "data.npz", kind)
    answer = onnxslim("optimize", model, "-p", "trim", "--data", tmp_path / "data.npz")
    assert answer.code == 1
    assert "cannot be read" in answer.err
    assert "bug in onnxslim" not in answer.err


@pytest.mark.parametrize("text", ["a = " + "[" * 5000 + "]" * 5000, "seed = " + "1" * 9000], ids=["nested", "huge"])
def test_recipes_out_of_all_bounds(onnxslim, model: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    answer = onnxslim("optimize", model, "--recipe", tmp_path / "recipe.toml")
    assert answer.code == 2
    assert "recipe" in answer.err
    assert "bug in onnxslim" not in answer.err


def test_numbers_out_of_all_bounds(onnxslim, model: Path) -> None:
    for arguments in (("bench", model, "--seconds", "inf"), ("bench", model, "--threads", 100_000)):
        answer = onnxslim(*arguments)
        assert answer.code == 2
        assert "hint: " in answer.err
