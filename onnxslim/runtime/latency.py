"""Latency of one model, and of two models in pairs of blocks.

Two models that alternate run by run disturb each other: caches are full of the weights of the other model, whose idle
threads still spin on the cores. So the models alternate in blocks of many runs. The first runs of a block, with cold
caches and sleeping threads, are left out, and a block ends when its threads sleep (`onnxslim.runtime.timing`). Other
load on the machine still affects both blocks of a pair.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np

from onnxslim.runtime.statistics import Interval, percentile_interval

Clock = Callable[[], float]
"""Returns the time in seconds, from an arbitrary start."""

WARM_UP = 0.25
"""Share of a block that is left out as warm-up."""
WARM_UP_RUNS, TIMED_RUNS = 1, 2
"""Minimum of runs of a block that are left out, and that are timed."""
BLOCKS = 16
"""Target number of blocks of each model."""
SHORTEST, LONGEST = 0.06, 0.2
"""Limits of the duration of a block, in seconds."""
FEWEST_PAIRS, MOST_PAIRS = 5, 1000
"""Minimum and maximum of the pairs of blocks."""
RESAMPLES = 1000
"""Number of resamples of the bootstrap."""
QUANTILES = 101
"""Number of quantiles of the distribution of the runs."""


@dataclasses.dataclass(frozen=True)
class ColdStart:
    """Cold start of a model in a fresh process, in milliseconds, with the file in the page cache."""

    load_ms: float
    """Time to load the model."""
    first_run_ms: float
    """Time of the first run."""


@dataclasses.dataclass(frozen=True)
class Percentiles:
    """Latency of one inference, warm, as in a process that holds only this model."""

    p50: Annotated[float, "the median, in milliseconds"]
    p95: Annotated[float, "95 % of the runs took at most this many milliseconds"]
    p99: Annotated[float, "99 % of the runs took at most this many milliseconds"]
    quantiles: Annotated[tuple[float, ...], "the 0th to the 100th percentile, in milliseconds: the distribution"] = ()


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time of one run, and the throughput."""

    times: Percentiles
    throughput_per_s: float
    """Samples per second: the samples of one run divided by the median."""
    cold: ColdStart | None = None
    """Cold start, if measured."""


@dataclasses.dataclass(frozen=True)
class PairedLatency:
    """Latency of two models measured in alternating blocks."""

    before: Latency
    after: Latency
    ratio: Interval
    """Median over the pairs of (median run of `before` / median run of `after`), with its 95 % bootstrap interval;
    above 1 if `after` is faster."""


Pair = tuple[list[float], list[float]]
"""Times of single runs in a block of each of two models, in seconds."""


class BlockTimer(Protocol):
    """A loaded model that can be timed."""

    def block(self, seconds: float) -> list[float]:
        """Run for about `seconds`, and return the times of single runs without warm-up, in seconds.

        Raises:
            RunError: The model does not run, or the process that runs it ended or takes too long.
        """


def run_block(call: Callable[[], None], seconds: float, clock: Clock = time.perf_counter) -> list[float]:
    """Call for about `seconds`, and return the times of single calls without warm-up, in seconds.

    At least `WARM_UP_RUNS` calls are left out and `TIMED_RUNS` are timed, however long they take.
    """
    start = clock()
    runs = 0
    while runs < WARM_UP_RUNS or clock() - start < WARM_UP * seconds:
        call()
        runs += 1
    times: list[float] = []
    begin = clock()
    while len(times) < TIMED_RUNS or begin - start < seconds:
        call()
        end = clock()
        times.append(end - begin)
        begin = end
    return times


def measure_blocks(
    model: BlockTimer, *, batch: int = 1, seconds: float = 1.0, clock: Clock = time.perf_counter
) -> Latency:
    """Return the latency of a single model with `batch` samples per run, from about `seconds` including warm-up.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    length = block_seconds(seconds)
    end = clock() + seconds
    model.block(length)
    blocks = [model.block(length)]
    while len(blocks) < FEWEST_PAIRS or (clock() < end and len(blocks) < MOST_PAIRS):
        blocks.append(model.block(length))
    return summarize([time for block in blocks for time in block], batch)


def time_pairs(
    before: BlockTimer, after: BlockTimer, *, seconds: float = 2.0, clock: Clock = time.perf_counter
) -> list[Pair]:
    """Return the times of two models in alternating blocks; the order of the two alternates from pair to pair.

    It takes about `seconds` for both models together, including warm-up.

    Raises:
        RunError: A model does not run, or the process that runs it failed.
    """
    length = block_seconds(seconds / 2)
    end = clock() + seconds
    models = before, after
    for model in models:
        model.block(length)
    pairs: list[Pair] = []
    while len(pairs) < FEWEST_PAIRS or (clock() < end and len(pairs) < MOST_PAIRS):
        if len(pairs) % 2 == 0:
            before_times = before.block(length)
            pairs.append((before_times, after.block(length)))
        else:
            after_times = after.block(length)
            pairs.append((before.block(length), after_times))
    return pairs


def compare_pairs(
    starts: Sequence[Sequence[Pair]],
    generator: np.random.Generator,
    batch: int = 1,
    cold: tuple[ColdStart | None, ColdStart | None] = (None, None),
) -> PairedLatency:
    """Return the latencies and their ratio, from the pairs of several starts of the processes.

    The same model is up to a tenth faster or slower from one process to the next, depending on its place in memory. So
    the bootstrap has two stages: it draws starts, and pairs within each start. A run is one of `batch` samples.
    """
    ratios = [
        np.array([np.median(before) / max(float(np.median(after)), 1e-12) for before, after in pairs])
        for pairs in starts
    ]

    def draw() -> float:
        chosen = (ratios[index] for index in generator.integers(0, len(ratios), len(ratios)))
        return float(np.median(np.concatenate([row[generator.integers(0, len(row), len(row))] for row in chosen])))

    first, second = (
        summarize([run for pairs in starts for pair in pairs for run in pair[side]], batch, cold[side])
        for side in (0, 1)
    )
    ratio = percentile_interval(float(np.median(np.concatenate(ratios))), [draw() for _ in range(RESAMPLES)])
    return PairedLatency(first, second, ratio)


def block_seconds(seconds: float) -> float:
    """Return the duration of a block, in seconds, if a model is measured for `seconds`."""
    return min(LONGEST, max(SHORTEST, seconds / BLOCKS))


def summarize(times: Sequence[float], batch: int = 1, cold: ColdStart | None = None) -> Latency:
    """Return the latency of runs of `batch` samples that took `times`, in seconds, with a cold start."""
    milliseconds = np.asarray(times) * 1e3
    p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, [50, 95, 99]))
    quantiles = tuple(float(value) for value in np.quantile(milliseconds, np.linspace(0, 1, QUANTILES)))
    return Latency(Percentiles(p50, p95, p99, quantiles), batch / max(p50 / 1e3, 1e-12), cold)


def batch_size(feeds: Mapping[str, Any]) -> int:
    """Return the number of samples in `feeds`: the common first dimension of all inputs that have one; else 1."""
    firsts = {shape[0] for array in feeds.values() if (shape := getattr(array, "shape", ()))}
    return int(firsts.pop()) if len(firsts) == 1 else 1
