"""The simplifier onnxsim as a pass: independent of our rules, and run in a child process, because it can crash."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import subprocess
import tempfile
from typing import Annotated, ClassVar

import onnx_ir as ir

from onnxslim.diagnostic import Code
from onnxslim.errors import OnnxslimError
from onnxslim.model import open_model, save_model
from onnxslim.model.edit import become
from onnxslim.model.mapped import in_memory
from onnxslim.model.nesting import main_graphs
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, left_alone
from onnxslim.pipeline.reasons import Reason
from onnxslim.runtime.child import python_command

CHILD = """
import sys
import onnx
import onnxsim
model, held = onnxsim.simplify(sys.argv[1])
if not held:
    sys.exit("the simplified model gives other outputs")
onnx.save(model, sys.argv[2])
"""
"""Run by a Python of its own, with the paths of the model and of the result."""


class OnnxsimCode(Code):
    """Why the result of onnxsim is not taken."""

    TIMED_OUT = "onnxsim took longer than {0:g} seconds"
    CRASHED = "onnxsim crashed with signal {0}"
    FAILED = "onnxsim failed: {0}"
    OTHER_INTERFACE = "onnxsim changed the {0} from {1} to {2}"


@dataclasses.dataclass(frozen=True)
class Onnxsim(Pass):
    """Simplify with onnxsim, another simplifier; where it fails or crashes, the model is left as it was."""

    name: ClassVar[str] = "onnxsim"
    kind: ClassVar[Kind] = Kind.EXACT

    timeout: Annotated[float, "seconds after which it is stopped"] = 600.0

    def run(self, model: ir.Model, context: Context) -> Change:
        """Replace the graph of `model` by what onnxsim makes of it.

        Raises:
            OnnxslimError: The package is not installed.
        """
        if importlib.util.find_spec("onnxsim") is None:
            raise OnnxslimError(
                "the package onnxsim is not installed",
                where="-p onnxsim",
                hint="pip install onnxslim-compiler[onnxsim]",
            )
        context.progress("onnxsim", 0, None)
        with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
            source, target = pathlib.Path(folder) / "before.onnx", pathlib.Path(folder) / "after.onnx"
            save_model(model, source)
            if reason := self._simplify(source, target):
                return Change(False, (left_alone("model", reason),))
            simplified = open_model(target)
            if reason := _other_interface(model, simplified):
                return Change(False, (left_alone("model", reason),))
            for graph in main_graphs(simplified):
                for value in graph.initializers.values():  # the folder goes, and what is mapped from it
                    if value.const_value is not None:
                        value.const_value = in_memory(value.const_value)
        before = sum(1 for _ in model.graph)
        simplified.graph.meta.update(model.graph.meta)  # what undoes the canonical form
        become(model, simplified)
        return Change(modified=True, notes=(Note("nodes", f"{before} -> {sum(1 for _ in model.graph)}"),))

    def _simplify(self, source: pathlib.Path, target: pathlib.Path) -> Reason | None:
        """Run onnxsim on a file. Returns why there is no result, or None."""
        try:
            child = subprocess.run(
                python_command(CHILD, str(source), str(target)),
                capture_output=True,
                text=True,
                timeout=self.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Reason(OnnxsimCode.TIMED_OUT, (self.timeout,))
        if child.returncode < 0:
            return Reason(OnnxsimCode.CRASHED, (-child.returncode,))
        if child.returncode or not target.exists():
            lines = child.stderr.strip().splitlines()
            return Reason(OnnxsimCode.FAILED, (lines[-1] if lines else "it wrote nothing",))
        return None


def _other_interface(model: ir.Model, simplified: ir.Model) -> Reason | None:
    """Return how inputs or outputs differ, which nobody asked for."""
    for which in ("inputs", "outputs"):
        before = [value.name for value in getattr(model.graph, which)]
        after = [value.name for value in getattr(simplified.graph, which)]
        if before != after:
            return Reason(OnnxsimCode.OTHER_INTERFACE, (which, before, after))
    return None
