"""Loads and runs a model for the first time in a process of its own, where it might end the process that runs it.

ONNX Runtime raises for nearly all that is wrong with a model. What it cannot raise for is a division of integers which
the processor refuses: the smallest number by -1 (SIGFPE on x86), in older versions any by 0. It ends the process, while
the model is loaded (constants are folded) or while it runs. A child costs a second and the memory of the model, so one
is asked only where a model divides integers by what is not known to be harmless; of 13,504 corrupted models, and of the
operator tests of ONNX, none ended a process otherwise.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxslim.analysis.evaluate import divides_safely
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples, synthetic_samples
from onnxslim.errors import RunError
from onnxslim.model import open_model, save_model
from onnxslim.model.nesting import every_graph
from onnxslim.runtime.child import module_command, signal_name
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

TIMEOUT = 120.0
"""Seconds after which a child that is still busy is taken for harmless."""


def rehearse(
    model: ir.Model,
    path: pathlib.Path | None,
    target: Target,
    *,
    data: object = None,
    preprocess: str | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Run `model` once in a process of its own, if it could end the process that runs it.

    Args:
        model: In canonical form; not changed.
        path: Its file; None: it is in memory only.
        target: Where it will run.
        data: The samples that it will get, as `open_samples` takes them; anything but a text: made-up ones.
        preprocess: How images become inputs.
        timeout: Seconds for the child.

    Raises:
        RunError: It ended the process. All else that may be wrong comes up again where it is reported.
    """
    if not may_end_a_process(model):
        return
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        if path is None:
            path = pathlib.Path(folder) / "model.onnx"
            save_model(model, path)
        request = {
            "model": os.fspath(path),
            "target": [target.provider, target.device, target.instruction_set, target.threads],
            "data": os.fspath(data) if isinstance(data, str | os.PathLike) else None,
            "preprocess": preprocess,
        }
        try:
            done = subprocess.run(
                module_command("onnxslim.data.trial_run_child"),
                input=json.dumps(request),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError):
            return
    if done.returncode < 0:
        raise RunError(
            f"running this model ends the process ({signal_name(-done.returncode)}): an integer is divided by what it "
            "cannot be divided by",
            where=path,
            hint="the smallest integer divided by -1, or any by 0, has no result: mend the model where it is exported",
        )


def may_end_a_process(model: ir.Model) -> bool:
    """Whether `model` divides integers by what is not known to be harmless."""
    suspects = [node for graph in every_graph(model) for node in graph if not divides_safely(node)]
    if not suspects:
        return False
    dividends = [node.inputs[0] for node in suspects if node.inputs]  # one without will be refused
    if all(value is not None and value.dtype is not None for value in dividends):
        return True
    typed = model.clone()  # types that the file does not tell: most divisions are of floats
    infer_shapes(typed)
    return any(not divides_safely(node) for graph in every_graph(typed) for node in graph)


def run_once(request: Mapping[str, Any]) -> None:
    """Do what the child does: load the model and run it on one sample.

    Raises:
        OnnxslimError: Something is wrong that raises.
    """
    path = pathlib.Path(request["model"])
    session = Session.of(path, Target(*request["target"]))
    if request["data"] is not None:
        samples = open_samples(request["data"], session.inputs, preprocess=request["preprocess"])
    else:
        samples = synthetic_samples(open_model(path), 1, session=session)
    session.run(samples.first())
