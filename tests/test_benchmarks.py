"""Benchmarks are no tests, but they must not rot: each can be imported, with the API as it is."""

from __future__ import annotations

import subprocess
import sys

from zoo import ROOT

# Peers and data makers that a benchmark compares with are not installed for tests: only what is ours must be there.
IMPORT_ALL = """
import importlib, pathlib, sys
bench = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(bench), str(bench.parent)]
ours = {"onnxslim"} | {path.stem for folder in (bench, bench.parent) for path in folder.iterdir()}
for path in sorted(bench.glob("*.py")):
    try:
        importlib.import_module(path.stem)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] in ours:
            raise
        print("left out:", path.stem, "needs", error.name)
    else:
        print("imported:", path.stem)
"""


def test_every_benchmark_can_be_imported() -> None:
    folder = str(ROOT / "tests" / "bench")
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("imported:") > 10, done.stdout  # few need more than the tests do
