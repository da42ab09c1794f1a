"""Says whether two outputs are the same, but for rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxslim.pipeline.reasons import Reason, ReasonCode

TOLERANCES = {
    "float32": 1e-4,
    "float64": 1e-7,
    "float16": 1e-2,
    "bfloat16": 5e-2,
    "float8_e4m3fn": 0.13,
    "float8_e4m3fnuz": 0.13,
    "float8_e5m2": 0.26,
    "float8_e5m2fnuz": 0.26,
}
"""Largest difference of an EXACT pass, relative to the largest magnitude of the output, by the name of its type.

Folding a normalisation into a convolution rounds each weight once, and some hundred layers add that up; float16 has 11
bits of mantissa; of float8 it is one step of the mantissa. Whole numbers must be equal.
"""

NOISE = 4.0
"""An output may differ by so many times what it moves by where the inputs move by one rounding: a rewrite rounds at
several places, and where small numbers are what large ones left of each other, every rounding shows."""


def difference(reference: Any, value: Any, noise: float = 0.0) -> Reason | None:
    """Return how an output differs from the reference beyond rounding, or None.

    `noise` is the `distance` that the reference has from itself where the inputs of the model are rounded otherwise.
    """
    expected, given = list(_arrays(reference)), list(_arrays(value))
    if len(expected) != len(given):
        return Reason(ReasonCode.OTHER_COUNT, (len(given), len(expected)))
    for wanted, array in zip(expected, given, strict=True):
        if wanted.dtype != array.dtype and {wanted.dtype.kind, array.dtype.kind} - set("OSU"):
            return Reason(ReasonCode.OTHER_TYPE, (array.dtype, wanted.dtype))
        if wanted.shape != array.shape:
            return Reason(ReasonCode.OTHER_SHAPE, (list(array.shape), list(wanted.shape)))
        tolerance = max(_tolerance(wanted), NOISE * noise)
        error = _error(wanted, array)
        if error <= tolerance:
            continue
        if not _tolerance(wanted):
            return Reason(ReasonCode.OTHER_VALUES, (error,))
        if error == math.inf:
            return Reason(ReasonCode.OTHER_NOT_FINITE)
        return Reason(ReasonCode.BEYOND_ROUNDING, (error, tolerance))
    return None


def distance(reference: Any, value: Any) -> float:
    """Return how far two outputs are apart: relative to the largest magnitude; of whole numbers, how many differ.

    Infinite where shapes differ, or what is finite.
    """
    ones, others = list(_arrays(reference)), list(_arrays(value))
    if [one.shape for one in ones] != [other.shape for other in others]:
        return math.inf
    return max((_error(one, other) for one, other in zip(ones, others, strict=True)), default=0.0)


def _tolerance(array: np.ndarray[Any, Any]) -> float:
    return TOLERANCES.get(array.dtype.name, 0.0)


def _error(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    if not _tolerance(one):
        return float(np.mean(one != other)) if one.size else 0.0
    one, other = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
        return math.inf
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0) / (np.abs(one[finite]).max(initial=0.0) or 1.0))


def shapes_of(value: Any) -> list[tuple[Any, int]]:
    """Return the types and ranks of the arrays in an output: what is left to compare where its values are random."""
    return [(array.dtype, array.ndim) for array in _arrays(value)]


def _arrays(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the arrays in an output: a tensor, or the lists and maps that tree ensembles give."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _arrays(item)
    elif value is not None:
        yield np.asarray(value)
