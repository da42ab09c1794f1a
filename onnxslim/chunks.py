"""Runs of items that together are small enough to be worked on at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def chunks(items: Iterable[_T], size: Callable[[_T], int], most: int) -> Iterator[list[_T]]:
    """Yield runs of `items`, in order, whose sizes sum up to at most `most`; an item that is larger goes alone."""
    chunk: list[_T] = []
    total = 0
    for item in items:
        own = size(item)
        if chunk and total + own > most:
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += own
    if chunk:
        yield chunk
