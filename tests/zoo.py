"""Where the real models are. They are no part of the repository: tests that use them skip where they are missing."""

from __future__ import annotations

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ZOO = pathlib.Path(os.environ.get("ONNXSLIM_ZOO", ROOT.parent / "shared" / "zoo"))
MODELS = ROOT / "models"


def zoo_file(*parts: str) -> pathlib.Path:
    """Return the path of a file in the zoo, or skip the test that asks."""
    path = ZOO.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the zoo has no {'/'.join(parts)} here (set ONNXSLIM_ZOO to its folder)")
    return path
