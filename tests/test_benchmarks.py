"""Benchmarks are no tests, but they must not rot: each can be imported, with the API as it is."""

from __future__ import annotations

import subprocess
import sys

from zoo import ROOT

IMPORT_ALL = """
import importlib, pathlib, sys
sys.path[:0] = [sys.argv[1], str(pathlib.Path(sys.argv[1]).parent)]
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    importlib.import_module(path.stem)
"""


def test_every_benchmark_can_be_imported() -> None:
    folder = str(ROOT / "tests" / "bench")
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
