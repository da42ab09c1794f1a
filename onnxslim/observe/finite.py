"""Refuses to learn from values that are not finite."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.errors import ValuesNotFinite

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})
LARGEST = 1e15
"""Larger numbers have no squares that single precision can add up."""


def check_finite(largest: float, name: str | None) -> None:
    """Refuse to learn from values that are not finite: one of them would make all weights that it touches NaN.

    Raises:
        ValuesNotFinite: The largest magnitude of the value of this name is NaN, infinite, or beyond `LARGEST`.
    """
    if not largest <= LARGEST:
        raise ValuesNotFinite(
            f"on some sample the value {name} of the model is NaN, infinite or beyond {LARGEST:g}",
            where="the calibration samples",
            hint="leave such samples out, or scale the inputs as the model was trained",
        )
