"""What ONNX Runtime does besides running models: nothing."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from onnxslim.ort import NO_TELEMETRY

PROGRAM = """
import sys
from onnxslim.cli.entry import run
sys.exit(run(["optimize", sys.argv[1], "-o", sys.argv[2], "--no-measure"]))
"""


def left_behind(home: pathlib.Path, **environment: str) -> list[str]:
    """Return the files that a run leaves in the home folder and among temporary ones."""
    model = pathlib.Path(__file__).parents[1] / "models" / "fashion_resnet8.onnx"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(home / "out.onnx")],
        env={**os.environ, "HOME": str(home), "TMPDIR": str(home), **environment},
        check=True,
        capture_output=True,
    )
    return sorted(str(file.relative_to(home)) for file in home.rglob("*") if file.is_file())


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    # on build servers, and where somebody said so, it is silent by itself
    for name in ("CI", "GITHUB_ACTIONS", "TF_BUILD", "XDG_CACHE_HOME", *NO_TELEMETRY):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_nothing_is_told_of_the_machine(home: pathlib.Path) -> None:
    assert left_behind(home) == ["out.onnx"]
