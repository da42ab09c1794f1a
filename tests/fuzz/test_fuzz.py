from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="cases are forked, which this platform does not do")


def run_script(name: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(FOLDER / name), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_broken_models_end_with_an_error_of_ours():
    run_script("run_cases.py", "--cases", "300", "--jobs", "2")


def test_a_run_that_is_stopped_loses_nothing():
    run_script("kill_runs.py", "--kills", "6")
