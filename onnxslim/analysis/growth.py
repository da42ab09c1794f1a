"""How many bytes a model may grow by for the sake of fewer nodes: one budget for the whole model."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

LIMIT_BYTES = 1 << 20
"""A model never grows by more than this."""

LEAST_BYTES = 64 << 10
"""A model may grow by this however small it is: masks and tables of positions are computed from nothing."""

SHARE = 1 / 8
"""Otherwise it may grow by this share of its constants."""

NODE_BYTES = 16
"""A node takes at least this in a file; it makes up for what the head of an initializer takes."""


COMPARED_BYTES = 1 << 10
"""Constants from this size on are compared with those that were made before: equal ones are stored once in the end."""


@dataclasses.dataclass
class Growth:
    """What is left of the budget. What makes the model smaller is paid in."""

    left_bytes: int = LIMIT_BYTES
    made: set[tuple[str, tuple[int, ...], bytes]] = dataclasses.field(default_factory=set)
    """Constants that were made already: type, shape, hash."""

    @classmethod
    def of(cls, weight_bytes: int, *, never: bool = False) -> Growth:
        """Return the budget of a model with so many bytes of constants; nothing where it may `never` grow."""
        return cls(0 if never else min(LIMIT_BYTES, max(LEAST_BYTES, int(weight_bytes * SHARE))))

    def size(self, arrays: Iterable[npt.NDArray[Any]]) -> int:
        """Return the bytes of new constants, without those of which there is an equal one."""
        return sum(array.nbytes for array in arrays if _key(array) not in self.made)

    def allows(self, more_bytes: int, fewer_nodes: int) -> bool:
        """Whether constants may take `more_bytes` more, where `fewer_nodes` nodes go."""
        return more_bytes <= self.left_bytes + NODE_BYTES * fewer_nodes

    def spend(self, more_bytes: int, arrays: Iterable[npt.NDArray[Any]]) -> None:
        """Take note that constants take `more_bytes` more now, less where it is negative; `arrays` are the new ones."""
        self.left_bytes -= more_bytes
        self.made.update(key for array in arrays if (key := _key(array)) is not None)


def _key(array: npt.NDArray[Any]) -> tuple[str, tuple[int, ...], bytes] | None:
    if array.nbytes < COMPARED_BYTES or array.dtype.kind in "OSU":
        return None
    digest = hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8).data, digest_size=16).digest()
    return str(array.dtype), array.shape, digest
