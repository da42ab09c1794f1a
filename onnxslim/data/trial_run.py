"""A first run of models that could end the process that runs them, in a child process, which runs this module.

ONNX Runtime raises an error for nearly every fault of a model. The exception is an integer division that the processor
refuses: the smallest integer by -1 (SIGFPE on x86), in older versions any integer by 0. It ends the process, either
when the model is loaded (constants are folded) or when it runs. A child costs a second and the memory of the model, so
it is started only if a model divides integers by a value that is not known to be safe. Of 13,504 corrupted models and
the operator tests of ONNX, none ended a process for another reason.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxslim.analysis.evaluate import divides_safely
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples, synthetic_samples
from onnxslim.errors import OnnxslimError, RunError
from onnxslim.model import open_model, save_model
from onnxslim.model.nesting import every_graph
from onnxslim.runtime.child import run_module, signal_name
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

TIMEOUT = 120.0
"""Time limit of the child in seconds; a child that is still busy then counts as safe."""


def run_in_child(
    model: ir.Model,
    path: pathlib.Path | None,
    target: Target,
    *,
    data: object = None,
    preprocess: str | None = None,
) -> None:
    """Run `model` once in a child process, if it could end the process that runs it.

    `path` is its file; None: the model is in memory only. It runs on the first of the samples `data`, which
    `preprocess` prepares, if that is a path, else on a synthetic one.

    Raises:
        RunError: The model ended the child. Other errors are reported by the later runs.
    """
    if not may_end_a_process(model):
        return
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        if path is None:
            path = pathlib.Path(folder) / "model.onnx"
            save_model(model, path)
        request = {
            "model": os.fspath(path),
            "target": dataclasses.astuple(target),
            "data": os.fspath(data) if isinstance(data, str | os.PathLike) else None,
            "preprocess": preprocess,
        }
        try:
            child = run_module(__name__, request, TIMEOUT)
        except (subprocess.TimeoutExpired, OSError):
            return
    if child.returncode < 0:
        raise RunError(
            f"running this model ends the process ({signal_name(-child.returncode)}): an integer is divided by what it "
            "cannot be divided by",
            where=path,
            hint="the smallest integer divided by -1, or any by 0, has no result: mend the model where it is exported",
        )


def may_end_a_process(model: ir.Model) -> bool:
    """Return whether `model` divides integers by a value that is not known to be safe."""
    suspects = [node for graph in every_graph(model) for node in graph if not divides_safely(node)]
    if not suspects:
        return False
    dividends = [node.inputs[0] for node in suspects if node.inputs]  # a node without inputs is refused elsewhere
    if all(value is not None and value.dtype is not None for value in dividends):
        return True
    typed = model.clone()  # the file lacks types: infer them, since most divisions are of floats
    infer_shapes(typed)
    return any(not divides_safely(node) for graph in every_graph(typed) for node in graph)


def run_once(request: Mapping[str, Any]) -> None:
    """Load the model of a request and run it on one sample, in the child.

    Raises:
        OnnxslimError: The model or its samples are refused.
    """
    path = pathlib.Path(request["model"])
    session = Session.of(path, Target(*request["target"]))
    if request["data"] is not None:
        samples = open_samples(request["data"], session.inputs, preprocess=request["preprocess"])
    else:
        samples = synthetic_samples(open_model(path), 1, session=session)
    session.run(samples.first())


def main() -> int:
    """Run the request on standard input, in the child, and return the exit code: 1 if the model raises an error."""
    try:
        run_once(json.load(sys.stdin))
    except OnnxslimError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
