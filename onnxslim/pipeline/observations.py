"""What a pass has found out about a model, kept for its next try on the same model at another strength."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast

import numpy as np

T = TypeVar("T")


class Observations:
    """The observations of one pass on one model."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Any, Mapping[str, Any], int]] = {}
        """What was returned, and then: the state of the generator, and how many generators it had spawned."""

    def recall(self, key: Hashable, observe: Callable[[], T], generator: np.random.Generator) -> T:
        """Return what `observe` returned when `key` was asked for first, and leave `generator` as it did then."""
        bits = generator.bit_generator
        seeds = cast(np.random.SeedSequence, bits.seed_seq)
        if key not in self._known:
            result = observe()
            self._known[key] = result, bits.state, seeds.n_children_spawned
        result, bits.state, spawned = self._known[key]
        seeds.spawn(max(0, spawned - seeds.n_children_spawned))
        return cast(T, result)
