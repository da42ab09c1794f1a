"""Calls take turns for as long as is asked, whatever each of them takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnxslim.errors import RunError
from onnxslim.runtime.turns import ENOUGH, FEWEST, OF_LAYERS, OF_MODELS, Turns, time_in_turns, time_those_that_run


class FakeClock:
    """Time passes as calls are made."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def call(self, name: str, *seconds: float) -> Callable[[], None]:
        """Return a call that takes these times in turn; the first is that of the warm-up."""

        def run() -> None:
            self.now += seconds[self.order.count(name) % len(seconds)]
            self.order.append(name)

        return run


def test_slow_calls_run_less_often() -> None:
    clock = FakeClock()
    calls = [clock.call("fast", 0.001), clock.call("slow", 0.2), clock.call("slower", 1.0)]
    assert time_in_turns(calls, Turns(30, 2.0), clock) == pytest.approx([1.0, 200.0, 1000.0])
    runs = {name: clock.order.count(name) - 1 for name in ("fast", "slow", "slower")}  # one is the warm-up
    assert runs["fast"] == 30
    assert runs["slow"] in (10, 11)  # as sums of floats have it
    assert runs["slower"] == FEWEST


def test_what_is_out_of_question_runs_no_more() -> None:
    clock = FakeClock()
    names = {"first": 0.03, "fast": 0.01, "near": 0.012, "slow": 0.02}
    calls = [clock.call(name, seconds) for name, seconds in names.items()]
    assert time_in_turns(calls, Turns(30, 9.0, 1.3), clock) == pytest.approx([30.0, 10.0, 12.0, 20.0])
    runs = {name: clock.order.count(name) - 1 for name in names}
    assert runs == {"first": 30, "fast": 30, "near": 30, "slow": ENOUGH}, "the first is what others are compared with"


def test_models_take_longer_turns_than_layers() -> None:
    assert OF_MODELS.runs > OF_LAYERS.runs
    assert OF_MODELS.seconds > OF_LAYERS.seconds


def test_other_load_only_adds_time() -> None:
    clock = FakeClock()
    (time,) = time_in_turns([clock.call("a", 0.001, 0.001, 0.004, 0.004)], Turns(40, 9.0), clock)
    assert time == pytest.approx(1.0)


def test_turns_go_forwards_and_backwards() -> None:
    clock = FakeClock()
    time_in_turns([clock.call("a", 0.1), clock.call("b", 0.1)], Turns(2, 9.0), clock)
    assert "".join(clock.order) == "ababba"


def test_what_does_not_run_has_no_time() -> None:
    def prepare(layer: str) -> Callable[[], None]:
        if layer == "broken":
            raise RunError("it does not run")
        return lambda: None

    none, some = time_those_that_run(prepare, ["broken", "sound"], Turns(2, 1.0))
    assert none is None
    assert some is not None
