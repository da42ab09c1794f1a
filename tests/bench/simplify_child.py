"""One simplifier on one model, run by the Python of the environment that holds the tool: prints a line of JSON.

    python simplify_child.py TOOL IN.onnx OUT.onnx    TOOL: ours, unchecked, onnxsim, onnxslim, onnxscript, onnxruntime
    python simplify_child.py TOOL --version

Seconds are those of reading, simplifying and writing; imports are not counted. ``onnxslim`` is the other project of
that name; ``onnxruntime`` is what ONNX Runtime writes at its basic level. Ours checks its result against the original
within these seconds, as onnxsim may do and does not by default; ``unchecked`` is ours without that. Knows nothing but
the standard library and the tool.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import resource
import sys
import time
import warnings
from collections.abc import Callable

Work = Callable[[str, str], object]


def ours() -> Work:
    import onnxslim.passes.simplify  # what the first call would import

    import onnxslim
    import onnxslim.api

    return lambda source, out: onnxslim.optimize(source, passes="simplify", output=out, measure=False)


def unchecked() -> Work:
    import onnxslim.passes.simplify

    import onnxslim
    import onnxslim.api

    return lambda source, out: onnxslim.optimize(source, passes="simplify", output=out, check=False)


def onnxsim() -> Work:
    import onnx
    import onnxsim

    return lambda source, out: onnx.save(onnxsim.simplify(onnx.load(source))[0], out)


def other_onnxslim() -> Work:
    import onnxslim

    return onnxslim.slim


def onnxscript() -> Work:
    import onnx_ir
    import onnxscript.optimizer

    def work(source: str, out: str) -> None:
        model = onnx_ir.load(source)
        onnxscript.optimizer.optimize(model)
        onnx_ir.save(model, out)

    return work


def onnxruntime() -> Work:
    import onnxruntime as runtime

    def work(source: str, out: str) -> None:
        options = runtime.SessionOptions()
        options.optimized_model_filepath = out
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return work


TOOLS = {
    "ours": (ours, "onnxslim-compiler"),
    "unchecked": (unchecked, "onnxslim-compiler"),
    "onnxsim": (onnxsim, "onnxsim"),
    "onnxslim": (other_onnxslim, "onnxslim"),
    "onnxscript": (onnxscript, "onnxscript"),
    "onnxruntime": (onnxruntime, "onnxruntime"),
}
"""What makes each tool ready to work, and the name of its distribution."""


def version(tool: str) -> str:
    """Return the version; ours with a hash of the sources, since it changes more often than its number."""
    number = importlib.metadata.version(TOOLS[tool][1])
    if tool != "ours":
        return number
    import onnxslim.passes

    import onnxslim

    digest = hashlib.sha256()
    folders = {pathlib.Path(path) for package in (onnxslim, onnxslim.passes) for path in package.__path__}
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".rules")):
        digest.update(path.read_bytes())
    return f"{number}+{digest.hexdigest()[:8]}"


def main(tool: str, source: str, out: str) -> dict[str, object]:
    work = TOOLS[tool][0]()
    wall, cpu = time.perf_counter(), time.process_time()
    work(source, out)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        answer = {"version": version(sys.argv[1])} if sys.argv[2] == "--version" else main(*sys.argv[1:])
    print(json.dumps(answer))
