"""What a pass has found out about a model, kept for its next try on the same model at another strength."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, cast

import numpy as np

T = TypeVar("T")


class HasGenerator(Protocol):
    """What holds the one source of random numbers."""

    generator: np.random.Generator


@dataclasses.dataclass(frozen=True)
class _Recalled:
    result: Any
    after: np.random.Generator
    """The generator as it was left."""


class Observations:
    """The observations of one pass on one model."""

    def __init__(self) -> None:
        self._known: dict[Hashable, _Recalled] = {}

    def recall(self, key: Hashable, observe: Callable[[], T], drawing: HasGenerator) -> T:
        """Return what `observe` returned when `key` was asked for first, and leave the generator as it did then."""
        if key in self._known:
            drawing.generator = copy.deepcopy(self._known[key].after)
            return cast(T, self._known[key].result)
        result = observe()
        self._known[key] = _Recalled(result, copy.deepcopy(drawing.generator))
        return result
