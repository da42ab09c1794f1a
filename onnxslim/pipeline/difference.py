"""Says whether two outputs are the same, but for rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

TOLERANCES = {"f": 1e-4, "e": 1e-2, "d": 1e-7}
"""Largest difference of an EXACT pass, relative to the largest magnitude of the output, by numpy's type character.

Folding a normalisation into a convolution rounds each weight once, and some hundred layers add that up; float16 (e)
has 11 bits of mantissa. Whole numbers must be equal.
"""


def difference(reference: Any, value: Any) -> str | None:
    """Return how an output differs from the reference beyond rounding, or None."""
    if len(list(_arrays(reference))) != len(list(_arrays(value))):
        return "another number of elements"
    for one, other in zip(_arrays(reference), _arrays(value), strict=True):
        if one.dtype != other.dtype and {one.dtype.kind, other.dtype.kind} - set("OSU"):
            return f"type {other.dtype} in place of {one.dtype}"
        if one.shape != other.shape:
            return f"shape {list(other.shape)} in place of {list(one.shape)}"
        tolerance = TOLERANCES.get(one.dtype.char, 5e-2 if one.dtype.name == "bfloat16" else 0.0)
        if not tolerance:
            if not np.array_equal(one, other):
                return f"{np.mean(one != other):.2%} of the values differ"
            continue
        one, other = one.astype(np.float64), other.astype(np.float64)
        finite = np.isfinite(one)
        if not np.array_equal(one[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
            return "other values are not finite"
        error = np.abs(one[finite] - other[finite]).max(initial=0.0) / (np.abs(one[finite]).max(initial=0.0) or 1.0)
        if error > tolerance:
            return f"relative difference {error:.1e}, at most {tolerance:.0e} is rounding"
    return None


def shapes_of(value: Any) -> list[tuple[Any, int]]:
    """Return the types and ranks of the arrays in an output: what is left to compare where its values are random."""
    return [(array.dtype, array.ndim) for array in _arrays(value)]


def _arrays(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the arrays in an output: a tensor, or the lists and maps that tree ensembles give."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _arrays(each)
    elif value is not None:
        yield np.asarray(value)
