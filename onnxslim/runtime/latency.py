"""Latency of one model, and of two in pairs of blocks: each block as undisturbed as a model that is alone.

Two models that take turns run by run disturb each other: the caches are full of the other's weights, and its idle
threads still spin on the cores. So they take turns in blocks of many runs; the first runs of a block, which find cold
caches and sleeping threads, are left out; and a block ends when its threads sleep (`onnxslim.runtime.timing`). What
else the machine does still hits both blocks of a pair.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from onnxslim.runtime.statistics import Interval

Clock = Callable[[], float]
"""Tells the time in seconds, from any start."""

WARM_UP = 0.25
"""Share of a block that is left out: runs with cold caches, and with threads that have to be woken."""
WARM_UP_RUNS, TIMED_RUNS = 1, 2
"""Runs of a block that are left out, and that count, however long they take."""
BLOCKS = 16
"""Blocks of each model that the time is shared out into, where that makes them neither too short nor too long."""
SHORTEST, LONGEST = 0.06, 0.2
"""Seconds that a block lasts."""
FEWEST_PAIRS, MOST_PAIRS = 5, 1000
"""Pairs of blocks that are measured in any case, and at most."""
RESAMPLES = 1000
"""Draws of the bootstrap."""
QUANTILES = 101
"""Values that stand for the distribution of the runs."""


@dataclasses.dataclass(frozen=True)
class ColdStart:
    """What a fresh process pays before the model is warm, in milliseconds. The file was read before."""

    load_ms: float
    """Loading the model."""
    first_run_ms: float
    """Running it the first time."""


@dataclasses.dataclass(frozen=True)
class Latency:
    """How long one run takes, all in milliseconds but for the throughput."""

    p50: float
    """The median."""
    p95: float
    p99: float
    throughput_per_s: float
    """Samples per second: those in one run, divided by the median."""
    quantiles: tuple[float, ...] = ()
    """The 0th to the 100th percentile of single runs, for a plot."""
    cold: ColdStart | None = None
    """What comes before it in a fresh process, where that was measured."""


@dataclasses.dataclass(frozen=True)
class PairedLatency:
    """Latency of two models that took turns in blocks."""

    before: Latency
    after: Latency
    ratio: Interval
    """Median over the pairs of: median run of `before` / median run of `after`, with its 95 % bootstrap interval. Above
    1 `after` is faster."""


Pair = tuple[list[float], list[float]]
"""How long single runs of two models took in a block of each, in seconds."""


class BlockTimer(Protocol):
    """A model that is ready to be timed."""

    def block(self, seconds: float) -> list[float]:
        """Run for about `seconds`; return how long single runs took, in seconds, the first ones left out."""


def run_block(call: Callable[[], None], seconds: float, clock: Clock = time.perf_counter) -> list[float]:
    """Call for about `seconds` and return how long single calls took, in seconds, those that warm up left out.

    At least `WARM_UP_RUNS` are left out and `TIMED_RUNS` returned, however long they take.
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
    """Measure one model alone.

    Args:
        model: The model.
        batch: Samples in one run.
        seconds: About how long to measure, warm-up included.
        clock: Tells the time in seconds.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    length = block_seconds(seconds)
    end = clock() + seconds
    model.block(length)
    times = [model.block(length)]
    while len(times) < FEWEST_PAIRS or (clock() < end and len(times) < MOST_PAIRS):
        times.append(model.block(length))
    return summarize([each for block in times for each in block], batch)


def time_pairs(
    before: BlockTimer, after: BlockTimer, *, seconds: float = 2.0, clock: Clock = time.perf_counter
) -> list[Pair]:
    """Time two models in turns, block by block; which one goes first alternates from pair to pair.

    Args:
        before: The one model.
        after: The other; it takes the same inputs.
        seconds: About how long to measure both together, warm-up included.
        clock: Tells the time in seconds.

    Returns:
        For each pair of blocks the times of single runs of the two, in seconds.

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
            one = before.block(length)
            pairs.append((one, after.block(length)))
        else:
            other = after.block(length)
            pairs.append((before.block(length), other))
    return pairs


def compare_pairs(
    starts: Sequence[Sequence[Pair]],
    generator: np.random.Generator,
    batch: int = 1,
    cold: tuple[ColdStart | None, ColdStart | None] = (None, None),
) -> PairedLatency:
    """Compare two models by what `time_pairs` returned, once for each time that their processes were started.

    The same model is up to a tenth faster or slower from one process to the next, wherever its memory lies. So the
    interval is that of a bootstrap in two stages: it draws starts, and pairs of each.

    Args:
        starts: For each start its pairs.
        generator: For the bootstrap.
        batch: Samples in one run.
        cold: The cold starts of the two, to be handed on.
    """
    ratios = [
        np.array([np.median(before) / max(float(np.median(after)), 1e-12) for before, after in pairs])
        for pairs in starts
    ]

    def draw() -> float:
        chosen = (ratios[index] for index in generator.integers(0, len(ratios), len(ratios)))
        return float(np.median(np.concatenate([row[generator.integers(0, len(row), len(row))] for row in chosen])))

    value = float(np.median(np.concatenate(ratios)))
    low, high = np.quantile([draw() for _ in range(RESAMPLES)], [0.025, 0.975])
    one, other = (
        summarize([run for pairs in starts for pair in pairs for run in pair[side]], batch, cold[side])
        for side in (0, 1)
    )
    return PairedLatency(one, other, Interval(value, min(value, float(low)), max(value, float(high))))


def block_seconds(seconds: float) -> float:
    """Return how long a block should last where a model may be measured for `seconds`."""
    return min(LONGEST, max(SHORTEST, seconds / BLOCKS))


def summarize(times: Sequence[float], batch: int = 1, cold: ColdStart | None = None) -> Latency:
    """Return the percentiles of `times`, in seconds for one run of `batch` samples, with a cold start beside them."""
    milliseconds = np.asarray(times) * 1e3
    p50, p95, p99 = (float(each) for each in np.percentile(milliseconds, [50, 95, 99]))
    quantiles = tuple(float(each) for each in np.quantile(milliseconds, np.linspace(0, 1, QUANTILES)))
    return Latency(p50, p95, p99, batch / max(p50 / 1e3, 1e-12), quantiles, cold)


def batch_size(feeds: Mapping[str, Any]) -> int:
    """Return how many samples `feeds` hold: the first dimension, where all inputs that have one agree; else 1."""
    firsts = {np.shape(array)[0] for array in feeds.values() if np.ndim(array)}
    return int(firsts.pop()) if len(firsts) == 1 else 1
