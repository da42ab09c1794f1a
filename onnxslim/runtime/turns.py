"""Times several calls of one process in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from onnxslim.errors import RunError
from onnxslim.runtime.latency import Clock

Layer = TypeVar("Layer")

FEWEST = 5
"""Runs of a slow call."""
ENOUGH = 12
"""Runs after which a call may be known to be out of the question."""
LOWER = 0.25
"""Quantile of the times that counts: other load only adds time, and the minimum depends on chance."""


@dataclasses.dataclass(frozen=True)
class Turns:
    """How long calls take turns."""

    runs: int
    """Of each call at most."""
    seconds: float
    """Of all runs of a call, after which it is slow."""
    apart: float = math.inf
    """Multiple of the fastest call's time: what takes longer runs no more after `ENOUGH` runs, but for the first call,
    with which the others are compared."""


OF_LAYERS = Turns(40, 0.5)
"""There may be a thousand of them, and what one takes beside another differs much."""
OF_MODELS = Turns(120, 2.0, 1.3)
"""There are few, and a hundredth of their times may decide between those that are nearly as fast as the fastest."""


def time_in_turns(
    calls: Sequence[Callable[[], None]], turns: Turns = OF_LAYERS, clock: Clock = time.perf_counter
) -> list[float]:
    """Return the milliseconds of each call: the lower quartile of single runs, in turns.

    Calls take turns so that other load affects all of them, and so that caches are in the state as within a model, full
    of the data of other layers. Repeated in a row, a layer with 10 MB of weights runs up to twice as fast as it ever
    does within a model.

    Raises:
        RunError: A call fails.
    """
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    left: Sequence[int] = range(len(calls))
    for turn in range(turns.runs):
        if turn == ENOUGH:
            found = [_lower(runs) for runs in times]
            left = [index for index in left if index == 0 or found[index] <= turns.apart * min(found)]
        # forwards and backwards, so that a call does not always follow the same one
        for index in left if turn % 2 == 0 else reversed(left):
            if turn < FEWEST or sum(times[index]) < turns.seconds:
                start = clock()
                calls[index]()
                times[index].append(clock() - start)
    return [_lower(runs) * 1e3 for runs in times]


def _lower(seconds: Sequence[float]) -> float:
    return float(np.quantile(seconds, LOWER))


def time_those_that_run(
    prepare: Callable[[Layer], Callable[[], None]], layers: Sequence[Layer], turns: Turns = OF_LAYERS
) -> list[float | None]:
    """Return the milliseconds of each layer in turns; None for one that `prepare` cannot open, or that fails."""
    calls: dict[int, Callable[[], None]] = {}
    for index, layer in enumerate(layers):
        with contextlib.suppress(RunError):
            call = prepare(layer)
            call()
            calls[index] = call
    times = dict(zip(calls, time_in_turns(list(calls.values()), turns), strict=True))
    return [times.get(index) for index in range(len(layers))]
