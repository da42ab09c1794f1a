"""onnxslim, a compiler from ONNX to ONNX: the public API, which docs/reference/api.md explains.

import onnxslim
result = onnxslim.optimize("model.onnx", passes="quant,prune", data="calib.npz", val="test.npz", max_drop=0.01)
result.report.ratio.size; result.save("small.onnx")
"""

from __future__ import annotations

import importlib
import pathlib
from typing import TYPE_CHECKING, Any

from onnxslim.errors import OnnxslimError

if TYPE_CHECKING:
    from onnxslim import errors
    from onnxslim.api import optimize
    from onnxslim.commands.bench import bench
    from onnxslim.commands.compare import compare
    from onnxslim.commands.inspect import inspect
    from onnxslim.commands.optimize import Result
    from onnxslim.data import Samples, open_samples
    from onnxslim.model import load, open_model, save_model
    from onnxslim.pipeline.interface import (
        Change,
        Context,
        Goal,
        Kind,
        LayerChange,
        LayerSensitivity,
        Note,
        NoteKind,
        Pass,
        Progress,
        left_alone,
        remark,
    )
    from onnxslim.pipeline.records import Report
    from onnxslim.quality.evidence import Evidence
    from onnxslim.quality.metric import Figure, Metric, Recognition
    from onnxslim.report.destination import save_report

    __version__: str

if not (pathlib.Path(__file__).parent / "passes").is_dir():
    # In a checkout `passes/` lies beside this folder, not inside: let it be found from there, too.
    __path__.append(str(pathlib.Path(__file__).resolve().parent.parent))

__all__ = [
    "Change",
    "Context",
    "Evidence",
    "Figure",
    "Goal",
    "Kind",
    "LayerChange",
    "LayerSensitivity",
    "Metric",
    "Note",
    "NoteKind",
    "OnnxslimError",
    "Pass",
    "Progress",
    "Recognition",
    "Report",
    "Result",
    "Samples",
    "__version__",
    "bench",
    "compare",
    "errors",
    "inspect",
    "left_alone",
    "load",
    "open_model",
    "open_samples",
    "optimize",
    "remark",
    "save_model",
    "save_report",
]

HOMES = {
    name: module
    for module, names in {
        "onnxslim.api": "optimize",
        "onnxslim.commands.bench": "bench",
        "onnxslim.commands.compare": "compare",
        "onnxslim.commands.inspect": "inspect",
        "onnxslim.commands.optimize": "Result",
        "onnxslim.data": "Samples open_samples",
        "onnxslim.model": "load open_model save_model",
        "onnxslim.pipeline.interface": "Change Context Goal Kind LayerChange LayerSensitivity Note NoteKind "
        "Pass Progress left_alone remark",
        "onnxslim.pipeline.records": "Report",
        "onnxslim.quality.evidence": "Evidence",
        "onnxslim.quality.metric": "Figure Metric Recognition",
        "onnxslim.report.destination": "save_report",
    }.items()
    for name in names.split()
}
"""Where each name lives. ONNX Runtime takes a second to import: it is loaded when it is needed, not for ``--help``."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from onnxslim.installation import version

        return version()
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
