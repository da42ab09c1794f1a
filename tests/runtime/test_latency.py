"""Latency, on a clock that the models themselves move: every figure is known beforehand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxslim.runtime.latency import (
    FEWEST_PAIRS,
    LONGEST,
    SHORTEST,
    TIMED_RUNS,
    WARM_UP_RUNS,
    ColdStart,
    PairedLatency,
    batch_size,
    block_seconds,
    compare_pairs,
    measure_blocks,
    run_block,
    summarize,
    time_pairs,
)


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Stands for a model whose runs take the given seconds, in turn and again; longer for `cold` runs of a block."""

    def __init__(self, clock: Clock, *seconds: float, cold: int = 0, log: list[Model] | None = None) -> None:
        self.clock, self.seconds, self.cold, self.log = clock, itertools.cycle(seconds), cold, log
        self.blocks: list[float] = []
        self.runs = 0

    def block(self, seconds: float) -> list[float]:
        self.blocks.append(seconds)
        if self.log is not None:
            self.log.append(self)
        runs = 0

        def call() -> None:
            nonlocal runs
            runs += 1
            self.runs += 1
            self.clock.now += next(self.seconds) * (10 if runs <= self.cold else 1)

        return run_block(call, seconds, self.clock)


def compare(clock: Clock, before: Model, after: Model, seconds: float = 2.0) -> PairedLatency:
    pairs = time_pairs(before, after, seconds=seconds, clock=clock)
    return compare_pairs([pairs], np.random.default_rng(0))


def test_a_slower_model_shows_as_a_ratio_below_one() -> None:
    clock = Clock()
    fast, slow = Model(clock, 0.010), Model(clock, 0.020)
    faster = compare(clock, slow, fast)
    assert (faster.ratio.value, faster.ratio.low) == (pytest.approx(2.0), pytest.approx(2.0))
    assert (faster.before.times.p50, faster.after.times.p50) == (pytest.approx(20.0), pytest.approx(10.0))
    assert compare(clock, fast, slow).ratio.value == pytest.approx(0.5)


def test_cold_runs_of_a_block_do_not_count() -> None:
    clock = Clock()
    cold, even = Model(clock, 0.001, cold=1), Model(clock, 0.001)
    paired = compare(clock, cold, even)
    assert paired.ratio.value == pytest.approx(1.0)
    assert paired.before.times.p99 == pytest.approx(1.0)


def test_the_ratio_is_of_pairs_not_of_medians() -> None:
    """Another program that slows both of a pair down alike leaves the ratio alone."""
    clock = Clock()
    load = iter(np.repeat([1.0, 3.0, 2.0, 1.0, 5.0, 4.0], 2))

    class Loaded:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def block(self, seconds: float) -> list[float]:
            clock.now += seconds
            return [self.seconds * next(load)] * 3

    pairs = time_pairs(Loaded(0.02), Loaded(0.01), seconds=0.1, clock=clock)
    paired = compare_pairs([pairs], np.random.default_rng(0))
    assert (paired.ratio.low, paired.ratio.high) == (pytest.approx(2.0), pytest.approx(2.0))


def test_an_uncertain_ratio_has_a_wide_interval() -> None:
    clock = Clock()
    noisy = Model(clock, *np.random.default_rng(3).lognormal(-4, 0.5, 997))
    paired = compare(clock, noisy, Model(clock, 0.02))
    assert paired.ratio.low < paired.ratio.value < paired.ratio.high


def test_one_disturbance_does_not_move_the_ratio() -> None:
    clock = Clock()
    disturbed = Model(clock, *[0.01] * 40, 9.0, *[0.01] * 1000)
    paired = compare(clock, disturbed, Model(clock, 0.005))
    assert paired.ratio.value == pytest.approx(2.0)


def test_who_goes_first_alternates() -> None:
    clock = Clock()
    log: list[Model] = []
    one, two = Model(clock, 0.01, log=log), Model(clock, 0.01, log=log)
    compare(clock, one, two)
    assert log[:2] == [one, two], "a block of each warms up and does not count"
    assert log[2:8] == [one, two, two, one, one, two]


def test_time_bounds_the_measurement_but_for_the_fewest_pairs() -> None:
    clock = Clock()
    one, two = Model(clock, 0.001), Model(clock, 0.003)
    compare(clock, one, two, seconds=2.0)
    assert clock.now == pytest.approx(2.0, abs=0.2)
    clock = Clock()
    slow = Model(clock, 1.0)
    compare(clock, slow, Model(clock, 1.0), seconds=0.5)
    assert slow.runs == (1 + FEWEST_PAIRS) * (WARM_UP_RUNS + TIMED_RUNS)
    clock = Clock()
    alone = Model(clock, 0.001)
    latency = measure_blocks(alone, seconds=1.0, clock=clock)
    assert clock.now == pytest.approx(1.0, abs=0.1)
    assert latency.times.p50 == pytest.approx(1.0)


def test_a_block_is_neither_too_short_nor_too_long() -> None:
    assert block_seconds(0.01) == SHORTEST
    assert block_seconds(1e3) == LONGEST
    assert SHORTEST < block_seconds(1.5) < LONGEST


def test_a_block_leaves_its_first_runs_out() -> None:
    clock = Clock()
    durations = iter([4e-3, 3e-3, *[2e-3] * 100])

    def call() -> None:
        clock.now += next(durations)

    times = run_block(call, 0.02, clock)
    assert times == pytest.approx([2e-3] * len(times))
    assert 5 <= len(times) <= 7


def test_the_interval_knows_that_starts_differ() -> None:
    """Within a start all pairs agree; from one start to the next the ratio moves by a tenth."""
    starts = [[([ratio], [1.0])] * 50 for ratio in (2.0, 2.1, 2.2)]
    paired = compare_pairs(starts, np.random.default_rng(0))
    assert (paired.ratio.low, paired.ratio.value, paired.ratio.high) == (2.0, 2.1, 2.2)
    alone = compare_pairs(starts[:1], np.random.default_rng(0))
    assert (alone.ratio.low, alone.ratio.high) == (2.0, 2.0)


def test_cold_starts_are_handed_on() -> None:
    start = ColdStart(3.0, 2.0)
    paired = compare_pairs([[([2.0], [1.0])]], np.random.default_rng(0), cold=(start, None))
    assert (paired.before.cold, paired.after.cold) == (start, None)


def test_percentiles_and_throughput() -> None:
    latency = summarize([index / 1000 for index in range(1, 102)], batch=4)
    times = latency.times
    assert (times.p50, times.p95, times.p99) == (pytest.approx(51), pytest.approx(96), pytest.approx(100))
    assert latency.throughput_per_s == pytest.approx(4 / 0.051)
    assert times.quantiles == pytest.approx(range(1, 102))


def test_the_batch_is_what_all_inputs_agree_on() -> None:
    x, scalar = np.zeros((4, 3)), np.array(16000)
    assert batch_size({"x": x}) == 4
    assert batch_size({"x": x, "rate": scalar}) == 4
    assert batch_size({"x": x, "state": np.zeros((2, 4, 8))}) == 1
    assert batch_size({"rate": scalar}) == 1
