"""Benchmarks are no tests, but they must not rot: each can be imported, with the API as it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest
from zoo import ROOT

BENCH = ROOT / "tests" / "bench"

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
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, str(BENCH)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("imported:") > 10, done.stdout  # few need more than the tests do


def imported(name: str) -> Iterator[str]:
    """Yield what a benchmark imports when it starts, and what the files beside it that it imports do."""
    for statement in ast.parse((BENCH / f"{name}.py").read_text()).body:
        if isinstance(statement, ast.Import):
            found = [each.name for each in statement.names]
        else:
            found = [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
        for each in found:
            yield each.partition(".")[0]
            if (BENCH / f"{each}.py").exists():
                yield from imported(each)


@pytest.mark.parametrize("name", ["quant_data", "quantize_child", "simplify_child", "students_torch", "training_torch"])
def test_what_runs_in_environments_of_others_needs_nothing_of_ours(name: str) -> None:
    assert "onnxslim" not in set(imported(name))
