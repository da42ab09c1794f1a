"""Which elements of weights were set to zero on purpose: they stay zero while the others are trained."""

from __future__ import annotations

import numpy as np

from onnxslim.arrays import Array

SPARSE = 0.05
"""A weight of which so large a share is zero was made sparse."""
RISING = 3.0
"""Integers were made sparse where they are 0 so many times as often as 1 or -1: what was just rounded has about as many
of each, and a cut takes away what is next to 0."""


def moving_elements(weight: Array) -> Array | None:
    """Return which elements of a sparse weight of real numbers move; None: it is not sparse.

    What has one axis (a bias, a scale, the shift of a normalization) is never sparse: it may be all zeros at first.
    """
    if weight.ndim < 2 or not weight.size or np.mean(weight == 0) < SPARSE:
        return None
    moving: Array = weight != 0
    return moving


def moving_integers(levels: Array) -> Array | None:
    """Return what `moving_elements` does for the integers that a weight is stored as, zero points taken off."""
    moving = moving_elements(levels)
    if moving is None or np.sum(levels == 0) < RISING * np.sum(np.abs(levels) == 1) / 2:
        return None
    return moving
