"""The other project on PyPI that is called onnxslim: same import name, so that one of the two hides the other."""

from __future__ import annotations

import importlib.metadata

NAMESAKE = "onnxslim"
"""Its distribution; ours is called onnxslim-compiler."""
HINT = "pip uninstall onnxslim, then install onnxslim-compiler again"


def namesake_version() -> str | None:
    """Return the version of the other project if it is installed here, else None."""
    try:
        return importlib.metadata.version(NAMESAKE)
    except importlib.metadata.PackageNotFoundError:
        return None
