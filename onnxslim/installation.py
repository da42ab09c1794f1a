"""Versions of the installed distributions, including the other project named onnxslim."""

from __future__ import annotations

import functools
import importlib.metadata

DISTRIBUTION, NAMESAKE = "onnxslim-compiler", "onnxslim"
"""Our distribution, and one of the same import name: where both are installed, one of the two hides the other."""
NAMESAKE_HINT = f"pip uninstall {NAMESAKE}, then install {DISTRIBUTION} again"


def installed(distribution: str) -> str | None:
    """Return the version of a distribution, or None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def version() -> str:
    """Return the version of onnxslim."""
    return importlib.metadata.version(DISTRIBUTION)
