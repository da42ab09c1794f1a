"""Ops that onnx's own reference computes in float32 whatever it is given, or wrongly: their definitions."""

from __future__ import annotations

import math

import numpy as np
import reference_windows
from onnx.reference.op_run import OpRun
from op_draw import Array


def _erf(x: Array) -> Array:
    return np.array([math.erf(number) for number in x.flat], x.dtype).reshape(x.shape)


class Erf(OpRun):
    """Computed in the precision of its operand."""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x),)


class Gelu(OpRun):
    """Computed in the precision of its operand."""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        return (np.asarray(0.5 * x * (1 + (inner if approximate == "tanh" else _erf(x / math.sqrt(2))))),)


class LRN(OpRun):
    """Of all channels, not of as many as there are samples."""

    def _run(self, x: Array, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int = 1) -> tuple[Array]:
        ends = [(0, 0)] * x.ndim
        ends[1] = ((size - 1) // 2, size // 2)
        squares = np.pad(x * x, ends)
        around = sum(squares[:, first : first + x.shape[1]] for first in range(size))
        return (np.asarray(x / (bias + alpha / size * around) ** beta),)


REFERENCES = [Erf, Gelu, LRN, *reference_windows.REFERENCES]
