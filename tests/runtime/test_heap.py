"""Freed memory goes back where the C library can give it back, and nothing fails where it cannot."""

from __future__ import annotations

import ctypes
import sys
import types

import numpy as np
import pytest

from onnxslim.runtime.heap import return_freed_memory


def resident() -> int:
    """Return the bytes of this process that are in memory and in no file."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux") or not return_freed_memory(), reason="not glibc")
def test_freed_blocks_below_one_that_is_held_go_back() -> None:
    blocks = [np.ones(8_000) for _ in range(2_000)]  # 64 kB each: from the heap, not mapped
    held = blocks[-1]
    blocks.clear()
    before = resident()
    assert return_freed_memory()
    assert before - resident() > 50_000_000
    assert held[0] == 1


def test_libraries_that_cannot_are_left_alone() -> None:
    def without_a_name(_: None) -> ctypes.CDLL:
        raise TypeError("Windows takes no None")

    def without_it(_: None) -> ctypes.CDLL:
        return types.SimpleNamespace()  # type: ignore[return-value]  # it has no malloc_trim

    assert not return_freed_memory(without_a_name)
    assert not return_freed_memory(without_it)
