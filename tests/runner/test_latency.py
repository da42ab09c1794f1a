"""Latency, on a clock that the models themselves move: every figure is known beforehand."""

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.runner.latency import batch_size, compare_latency, measure_latency, summarize
from onnxslim.runner.session import Session

FEEDS = {"x": np.zeros((4, 3), np.float32)}


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """Stands for a session whose runs take the given seconds, in turn and again."""

    def __init__(self, clock: Clock, *seconds: float, log: list["Worker"] | None = None) -> None:
        self.clock, self.seconds, self.log = clock, itertools.cycle(seconds), log
        self.runs = 0

    def prepare(self, feeds: Mapping[str, object]) -> Callable[[], None]:
        def call() -> None:
            self.clock.now += next(self.seconds)
            self.runs += 1
            if self.log is not None:
                self.log.append(self)

        return call


def compare(clock: Clock, before: Worker, after: Worker, **options):
    return compare_latency(before, after, FEEDS, generator=np.random.default_rng(0), clock=clock, **options)


def test_a_slower_model_shows_as_a_ratio_below_one() -> None:
    clock = Clock()
    fast, slow = Worker(clock, 0.010), Worker(clock, 0.020)
    faster = compare(clock, slow, fast)
    assert faster.ratio.value == pytest.approx(2.0)
    assert faster.ratio.low == pytest.approx(2.0)
    assert faster.before.p50 == pytest.approx(20.0)
    assert faster.after.p50 == pytest.approx(10.0)
    assert compare(clock, fast, slow).ratio.value == pytest.approx(0.5)


def test_the_ratio_is_of_pairs_not_of_medians() -> None:
    """Another program that slows both down alike leaves the ratio alone."""
    clock = Clock()
    load = (1.0, 3.0, 2.0, 1.0, 5.0)
    before = Worker(clock, *(0.02 * factor for factor in load))
    after = Worker(clock, *(0.01 * factor for factor in load))
    # warm-up takes three runs of each, so that the cycles stay in step
    paired = compare(clock, before, after, seconds=0.01, minimum_rounds=40, maximum_rounds=40)
    assert (paired.ratio.low, paired.ratio.high) == (pytest.approx(2.0), pytest.approx(2.0))


def test_an_uncertain_ratio_has_a_wide_interval() -> None:
    clock = Clock()
    noisy = Worker(clock, *np.random.default_rng(3).lognormal(-4, 0.5, 997))
    paired = compare(clock, noisy, Worker(clock, 0.02), minimum_rounds=50, maximum_rounds=50, seconds=0.1)
    assert paired.ratio.low < paired.ratio.value < paired.ratio.high


def test_one_disturbance_does_not_move_the_ratio() -> None:
    clock = Clock()
    disturbed = Worker(clock, 0.02, 0.02, 0.02, 9.0, 0.02)  # the first round after three runs of warm-up
    paired = compare(clock, disturbed, Worker(clock, 0.01), seconds=0.01, minimum_rounds=25, maximum_rounds=25)
    assert paired.ratio.value == pytest.approx(2.0)


def test_who_goes_first_alternates() -> None:
    clock = Clock()
    log: list[Worker] = []
    one, two = Worker(clock, 0.01, log=log), Worker(clock, 0.01, log=log)
    compare(clock, one, two, seconds=0.01, minimum_rounds=4, maximum_rounds=4)
    assert log[-8:] == [one, two, two, one, one, two, two, one]


def test_time_and_rounds_bound_the_measurement() -> None:
    clock = Clock()
    one, two = Worker(clock, 1.0), Worker(clock, 1.0)
    compare(clock, one, two, seconds=0.5, minimum_rounds=5)
    assert one.runs == 3 + 5  # warm-up, then as many as there must be
    clock = Clock()
    one = Worker(clock, 0.001)
    measure_latency(one, FEEDS, seconds=100.0, maximum_rounds=7, clock=clock)
    assert clock.now == pytest.approx(100 * 0.1 + 0.007, abs=0.01)  # warm-up is a tenth, then seven runs
    clock = Clock()
    measure_latency(Worker(clock, 0.001), FEEDS, seconds=1.0, clock=clock)
    assert clock.now == pytest.approx(1.0, abs=0.002)


def test_fast_models_are_timed_several_runs_at_a_time() -> None:
    clock = Clock()
    worker = Worker(clock, 1e-6)
    latency = measure_latency(worker, FEEDS, seconds=0.0, minimum_rounds=5, clock=clock)
    assert worker.runs == pytest.approx(3 + 5 * 200, abs=5)  # 200 or 201, as the clock rounds
    assert latency.p50 == pytest.approx(1e-3)


def test_percentiles_and_throughput() -> None:
    latency = summarize([index / 1000 for index in range(1, 102)], batch=4)
    assert (latency.p50, latency.p95, latency.p99) == (pytest.approx(51), pytest.approx(96), pytest.approx(100))
    assert latency.throughput_per_s == pytest.approx(4 / 0.051)


def test_the_batch_is_what_all_inputs_agree_on() -> None:
    x, scalar = np.zeros((4, 3)), np.array(16000)
    assert batch_size({"x": x}) == 4
    assert batch_size({"x": x, "rate": scalar}) == 4
    assert batch_size({"x": x, "state": np.zeros((2, 4, 8))}) == 1
    assert batch_size({"rate": scalar}) == 1


def test_real_sessions_are_measured() -> None:
    text = '<ir_version: 10, opset_import: ["": 17]> r (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }'
    session = Session.of(from_text(text))
    assert measure_latency(session, FEEDS, seconds=0.02).p50 > 0
    paired = compare_latency(session, session, FEEDS, generator=np.random.default_rng(0), seconds=0.02)
    assert 0 < paired.ratio.low <= paired.ratio.value <= paired.ratio.high
