"""Gives memory that was freed back to the system."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def return_freed_memory(load: Callable[[None], ctypes.CDLL] = ctypes.CDLL) -> bool:
    """Give freed memory back to the system, where the C library can (glibc's malloc_trim(3)); return whether it can.

    glibc keeps freed blocks of up to 32 MB, once it has seen some as large, for the next ones of such a size: where
    models are opened and closed in turn, the weights of some that are gone fill the memory beside those of others.

    Args:
        load: Opens the C library of the process.
    """
    trim = _trim(load)
    if trim is None:
        return False
    trim(0)
    return True


@functools.cache
def _trim(load: Callable[[None], ctypes.CDLL]) -> Callable[[int], int] | None:
    # Windows opens no library without a name, and other C libraries have no such function
    try:
        return load(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None
