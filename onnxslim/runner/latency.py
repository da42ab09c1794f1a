"""Latency of one model, and of two in pairs: interleaved, so that whatever else the machine does hits both."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxslim.runner.session import Session
from onnxslim.runner.statistics import Interval, bootstrap

Clock = Callable[[], float]
"""Tells the time in seconds, from any start."""

SHORTEST = 2e-4
"""Seconds that one measurement should last at least; the call of a clock takes about 1e-7, an interrupt some 1e-5."""

WARM_UP = 0.1
"""Share of the time that goes into warming up: caches, memory arenas, clock frequencies."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long one run takes. Runs shorter than 0.2 ms are timed several at a time, and their mean is one value."""

    p50: float
    """Median, in milliseconds."""
    p95: float
    p99: float
    throughput_per_s: float
    """Samples per second: those in one run, divided by the median."""


@dataclasses.dataclass(frozen=True)
class PairedLatency:
    """Latency of two models that took turns."""

    before: Latency
    after: Latency
    ratio: Interval
    """Median of before / after over the rounds, with its 95 % bootstrap interval; above 1: `after` is faster."""


def measure_latency(
    session: Session,
    feeds: Mapping[str, Any],
    *,
    seconds: float = 1.0,
    minimum_rounds: int = 10,
    maximum_rounds: int = 10_000,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Measure how long `session` takes for `feeds`.

    Args:
        session: The model. On CUDA the feeds are on the device already, and the outputs stay there.
        feeds: As for `Session.run`.
        seconds: About how long to measure, warm-up included.
        minimum_rounds: Measure so often in any case, however long that takes.
        maximum_rounds: Stop then, even if there is time left.
        clock: Tells the time in seconds.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    end = clock() + seconds
    call = session.prepare(feeds)
    repeats = _warm_up(call, seconds, clock)
    times: list[float] = []
    while len(times) < minimum_rounds or (clock() < end and len(times) < maximum_rounds):
        times.append(_time(call, repeats, clock))
    return summarize(times, batch_size(feeds))


def compare_latency(
    before: Session,
    after: Session,
    feeds: Mapping[str, Any],
    *,
    generator: np.random.Generator,
    seconds: float = 2.0,
    minimum_rounds: int = 10,
    maximum_rounds: int = 10_000,
    clock: Clock = time.perf_counter,
) -> PairedLatency:
    """Measure two models in turns on the same feeds; who goes first alternates from round to round.

    Args:
        before: The one model.
        after: The other; it takes the same inputs.
        feeds: As for `Session.run`.
        generator: For the bootstrap of the ratio.
        seconds: About how long to measure both together, warm-up included.
        minimum_rounds: Measure so often in any case, however long that takes.
        maximum_rounds: Stop then, even if there is time left.
        clock: Tells the time in seconds.

    Raises:
        RunError: A model does not run on `feeds`.
    """
    end = clock() + seconds
    calls = before.prepare(feeds), after.prepare(feeds)
    repeats = tuple(_warm_up(call, seconds / 2, clock) for call in calls)
    times: tuple[list[float], list[float]] = ([], [])
    rounds = 0
    while rounds < minimum_rounds or (clock() < end and rounds < maximum_rounds):
        for each in (0, 1) if rounds % 2 == 0 else (1, 0):
            times[each].append(_time(calls[each], repeats[each], clock))
        rounds += 1
    ratios = np.asarray(times[0]) / np.maximum(times[1], np.finfo(np.float64).tiny)
    batch = batch_size(feeds)
    interval = bootstrap(ratios, lambda rows: float(np.median(rows)), generator)
    return PairedLatency(summarize(times[0], batch), summarize(times[1], batch), interval)


def summarize(times: list[float], batch: int = 1) -> Latency:
    """Return the percentiles of `times`, in seconds for one run of `batch` samples."""
    p50, p95, p99 = (float(each) for each in np.percentile(times, [50, 95, 99]))
    return Latency(p50 * 1e3, p95 * 1e3, p99 * 1e3, batch / max(p50, 1e-12))


def batch_size(feeds: Mapping[str, Any]) -> int:
    """Return how many samples `feeds` hold: the first dimension, where all inputs that have one agree; else 1."""
    firsts = {np.shape(array)[0] for array in feeds.values() if np.ndim(array)}
    return int(firsts.pop()) if len(firsts) == 1 else 1


def _time(call: Callable[[], None], repeats: int, clock: Clock) -> float:
    """Return the seconds that one call takes, as a mean over `repeats`."""
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def _warm_up(call: Callable[[], None], seconds: float, clock: Clock) -> int:
    """Call for a share of `seconds`, three times at least; return how many calls make one measurement."""
    end = clock() + seconds * WARM_UP
    fastest = _time(call, 1, clock)
    calls = 1
    while calls < 3 or clock() < end:
        fastest = min(fastest, _time(call, 1, clock))
        calls += 1
    return max(1, int(np.ceil(SHORTEST / max(fastest, 1e-9))))
