from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.cli.entry import run

CLASSIFIER = """
<ir_version: 10, opset_import: ["": 18]>
classifier (float[N, 8] x, float[8, 64] w1, float[64, 4] w2) => (float[N, 4] logits) {
    hidden = MatMul (x, w1)
    same = Identity (hidden)
    positive = Relu (same)
    logits = MatMul (positive, w2)
}
"""


def classifier(width: int = 64) -> ir.Model:
    """Return a small classifier with an Identity that is of no use."""
    generator = np.random.default_rng(0)
    weights = {
        "w1": generator.standard_normal((8, width), np.float32),
        "w2": generator.standard_normal((width, 4), np.float32),
    }
    return from_text(CLASSIFIER.replace("64", str(width)), **weights)


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
