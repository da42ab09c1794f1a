"""What a pass has found out about a model, kept for its next try on the same model at another strength."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class _Recalled:
    result: Any
    state: Mapping[str, Any]
    """The state of the generator when the observation was made."""
    spawned: int
    """How many generators it had spawned by then."""


class Observations:
    """The observations of one pass on one model."""

    def __init__(self) -> None:
        self._known: dict[Hashable, _Recalled] = {}

    def recall(self, key: Hashable, observe: Callable[[], T], generator: np.random.Generator) -> T:
        """Return what `observe` returned when `key` was asked for first, and leave `generator` as it did then."""
        bits = generator.bit_generator
        seeds = cast(np.random.SeedSequence, bits.seed_seq)
        if key not in self._known:
            result = observe()
            self._known[key] = _Recalled(result, bits.state, seeds.n_children_spawned)
        known = self._known[key]
        bits.state = known.state
        seeds.spawn(max(0, known.spawned - seeds.n_children_spawned))
        return cast(T, known.result)
