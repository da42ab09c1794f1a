"""onnxslim, a compiler from ONNX to ONNX: the public API.

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
    from onnxslim.api import optimize
    from onnxslim.commands.optimize import Result
    from onnxslim.model import open_model, save_model
    from onnxslim.report.destination import save_report

    __version__: str

if not (pathlib.Path(__file__).parent / "passes").is_dir():
    # In a checkout `passes/` lies beside this folder, not inside: let it be found from there, too.
    __path__.append(str(pathlib.Path(__file__).resolve().parent.parent))

__all__ = ["OnnxslimError", "Result", "__version__", "open_model", "optimize", "save_model", "save_report"]

HOMES = {
    "Result": "onnxslim.commands.optimize",
    "optimize": "onnxslim.api",
    "open_model": "onnxslim.model",
    "save_model": "onnxslim.model",
    "save_report": "onnxslim.report.destination",
}
"""Where each name lives. ONNX Runtime takes a second to import: it is loaded when it is needed, not for ``--help``."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("onnxslim-compiler")
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
