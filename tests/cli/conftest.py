from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from classifier import classifier
from outside import install

from onnxslim.cli.entry import run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The classifier in a folder of its own."""
    path = tmp_path / "models" / "model.onnx"
    path.parent.mkdir()
    ir.save(classifier(), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Samples for it, with labels."""
    generator = np.random.default_rng(1)
    path = tmp_path / "data.npz"
    np.savez(path, x=generator.standard_normal((32, 8), np.float32), labels=generator.integers(0, 4, 32))
    return path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def onnxslim(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs the command line in this process."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("ONNXSLIM_TRACEBACK", raising=False)

    def call(*arguments: object) -> Outcome:
        code = run([str(each) for each in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


TRIM = '''
"""Passes that exist in these tests only."""

import dataclasses
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass


@dataclasses.dataclass(frozen=True)
class Trim(Pass):
    """Removes Identity nodes.

    They do nothing.
    """

    name: ClassVar[str] = "trim"
    kind: ClassVar[Kind] = Kind.EXACT

    most: Annotated[int | None, "remove at most so many"] = None
    exclude: Annotated[tuple[str, ...], "values to keep"] = ()

    def run(self, model: ir.Model, context: Context) -> Change:
        notes = []
        for node in list(model.graph):
            if node.op_type == "Identity" and len(notes) != self.most:
                notes.append(Note(node.outputs[0].name, "removed"))
                node.outputs[0].replace_all_uses_with(node.inputs[0])
                model.graph.remove(node, safe=True)
        return Change(bool(notes), tuple(notes))
'''


@pytest.fixture
def trim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more pass, of another distribution."""
    entry_points = {"onnxslim.passes": {"trim": "trimming:Trim"}}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "trimming", {"trimming.py": TRIM}, entry_points))
    yield
    sys.modules.pop("trimming", None)
