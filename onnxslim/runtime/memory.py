"""Peak memory: of one run of a model, measured in child processes that run this module, and of work of this process."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxslim.errors import OnnxslimError
from onnxslim.runtime.child import run_module
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Measured
from onnxslim.runtime.target import Target

TIMEOUT = 300.0
"""Time limit for loading and running the model once, in seconds."""


def peak_memory(
    path: pathlib.Path,
    feeds: Mapping[str, Any],
    target: Target,
    *,
    timeout: float = TIMEOUT,
    command: str = sys.executable,
) -> Measured:
    """Return the peak resident memory, in bytes, of loading `path` and running it once, or why it is not known.

    One child process loads and runs the model, another does the same without the model; the result is the difference of
    their peaks. Memory-mapped files count as far as they are read. On CUDA, too, it is host memory.

    Args:
        path: The model file.
        feeds: As for `Session.run`.
        target: Target of the run.
        timeout: Time limit of each of the two processes, in seconds.
        command: Python interpreter of the children.
    """
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        archive = pathlib.Path(folder) / "feeds.npz"
        arrays = {name: np.asarray(array) for name, array in feeds.items()}
        # strings get a fixed-length type, which needs no pickle
        np.savez(archive, *(array.astype(str) if array.dtype == object else array for array in arrays.values()))
        request = {
            "model": str(path),
            "feeds": str(archive),
            "names": list(arrays),
            "target": dataclasses.astuple(target),
        }
        loaded = _child(request, timeout, command)
        baseline = _child({**request, "model": None}, timeout, command) if loaded.value is not None else loaded
    if loaded.value is None or baseline.value is None:
        return Measured(None, loaded.reason or baseline.reason)
    return Measured(max(0.0, loaded.value - baseline.value))


def _child(request: Mapping[str, object], timeout: float, command: str) -> Measured:
    try:
        child = run_module(__name__, request, timeout, python=command)
    except subprocess.TimeoutExpired:
        return Measured(None, f"the process that measures memory took longer than {timeout:g} s")
    except OSError as error:
        return Measured(None, f"the process that measures memory did not start: {error}")
    if child.returncode:
        lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        return Measured(None, f"the process that measures memory failed: {lines[-1]}")
    peak = json.loads(child.stdout)["peak"]
    return Measured(float(peak)) if peak is not None else Measured(None, "this platform does not tell a process's peak")


def run_once(request: Mapping[str, Any]) -> None:
    """Read the feeds of a request and, if it has a model, load it and run it once, in the child."""
    with np.load(request["feeds"], allow_pickle=False) as arrays:
        feeds = {name: arrays[f"arr_{index}"] for index, name in enumerate(request["names"])}
    if request["model"] is not None:
        Session.of(request["model"], Target(*request["target"])).run(feeds)


class MemoryRise:
    """How far the resident memory of this process rises from where it is now.

    It is host memory, and all that the process does meanwhile counts. Linux lets a process begin its peak anew
    (``clear_refs``, proc(5)).

    Args:
        process: What the system tells of this process.
    """

    def __init__(self, process: pathlib.Path = pathlib.Path("/proc/self")) -> None:
        self._status = process / "status"
        try:
            (process / "clear_refs").write_text("5")
            self._before = peak_resident_bytes(self._status)
        except OSError:
            self._before = None

    def measured(self) -> Measured:
        """Return the bytes of the peak so far above the beginning."""
        peak = None if self._before is None else peak_resident_bytes(self._status)
        if self._before is None or peak is None:
            return Measured(None, "this platform does not tell the peak of a part of a run")
        return Measured(float(max(0, peak - self._before)))


def peak_resident_bytes(status: pathlib.Path = pathlib.Path("/proc/self/status")) -> int | None:
    """Return the peak resident memory of this process in bytes; None if the platform does not report it.

    Linux reports it in VmHWM, since a forked child inherits `ru_maxrss` from its parent. On macOS `ru_maxrss` is in
    bytes and starts anew.
    """
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def main() -> int:
    """Run one request in the child, print its peak memory as JSON, and return the exit code."""
    try:
        run_once(json.load(sys.stdin))
    except OnnxslimError as error:
        print(error.what, file=sys.stderr)
        return 1
    print(json.dumps({"peak": peak_resident_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
