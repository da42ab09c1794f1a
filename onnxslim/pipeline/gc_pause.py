"""Python's cyclic garbage collector, told to look less often while a model is worked on.

A model of ten thousand nodes is a million small objects that all stay. The collector goes through them again whenever
as many more were made as it has thresholds for: over half of the time of a simplification went there.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

THRESHOLDS = (200_000, 50, 100)
"""New objects before the youngest generation is looked through, and how many such rounds before the next ones are."""


@contextlib.contextmanager
def patient_collector() -> Iterator[None]:
    """Raise the thresholds of the collector to `THRESHOLDS`, and set them back at the end; lower none.

    A collector that was switched off stays off. What refers to itself may live longer meanwhile: sessions and arrays
    that nobody refers to any more go at once, as ever.
    """
    before = gc.get_threshold()
    if before[0]:
        gc.set_threshold(*(max(old, new) for old, new in zip(before, THRESHOLDS, strict=True)))
    try:
        yield
    finally:
        gc.set_threshold(*before)
