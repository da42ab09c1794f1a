"""The result is looked at as a whole: what does not pay in the end is left out, and what is left of the budget is used.

The times of the models here are not measured: they stand in the models, and passes change them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from story import make_context

from onnxslim.data import open_samples
from onnxslim.pipeline.interface import Change, Context, Goal, Kind, Pass
from onnxslim.pipeline.judge import Judge
from onnxslim.pipeline.measured import MeasuredModel, Run
from onnxslim.pipeline.recipe import Recipe
from onnxslim.pipeline.request import Request
from onnxslim.pipeline.run import Stage, run_passes
from onnxslim.runtime.latency import Latency, PairedLatency, Percentiles
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Interval

COUNT = 2000
MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,1] x) => (float[N,2] y)
    <float[1] cut = {0}, float[1] time = {100}, float[1] split = {0}> {
    d = Sub (x, cut)  t = Mul (time, split)  zero = Sub (t, t)  z = Mul (d, zero)
    y = Concat <axis = 1> (z, d) }"""


def number(model: ir.Model, name: str) -> float:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return float(value.numpy()[0])


def put(model: ir.Model, name: str, value: float) -> None:
    model.graph.initializers[name].const_value = ir.tensor(np.float32([value]), name=name)


@dataclasses.dataclass(frozen=True)
class Narrow(Pass):
    """The more of it, the faster, and the more is lost."""

    name: ClassVar[str] = "narrow"
    kind: ClassVar[Kind] = Kind.LOSSY
    strength: Annotated[float, "how much of it is done"] = 1.0
    lost: Annotated[float, "what is lost where all of it is done"] = 0.04

    def milder(self, strength: float) -> Pass:
        return dataclasses.replace(self, strength=strength)

    def run(self, model: ir.Model, context: Context) -> Change:
        put(model, "cut", number(model, "cut") + self.lost * self.strength**2)
        put(model, "time", number(model, "time") * (1 - 0.8 * self.strength))
        return Change(True)


@dataclasses.dataclass(frozen=True)
class Split(Pass):
    """Faster by itself, and in the way of `Round`."""

    name: ClassVar[str] = "split"
    kind: ClassVar[Kind] = Kind.LOSSY
    factor: Annotated[float, "the time that stays"] = 0.8

    def run(self, model: ir.Model, context: Context) -> Change:
        put(model, "time", number(model, "time") * self.factor)
        put(model, "split", 1.0)
        return Change(True)


@dataclasses.dataclass(frozen=True)
class Round(Pass):
    """Twice as fast, but for what was split."""

    name: ClassVar[str] = "round"
    kind: ClassVar[Kind] = Kind.LOSSY
    on_split: Annotated[float, "the time that stays of what was split"] = 1.0

    def run(self, model: ir.Model, context: Context) -> Change:
        put(model, "time", number(model, "time") * (self.on_split if number(model, "split") else 0.5))
        return Change(True)


@dataclasses.dataclass(frozen=True)
class Mend(Pass):
    """Wins back a part of what was lost."""

    name: ClassVar[str] = "mend"
    kind: ClassVar[Kind] = Kind.LOSSY
    speeds_up: ClassVar[bool] = False
    recovers: ClassVar[bool] = True
    share: Annotated[float, "of what was lost"] = 0.9
    most: Annotated[float, "what is won back at most"] = 1.0

    def run(self, model: ir.Model, context: Context) -> Change:
        lost = number(model, "cut")
        put(model, "cut", lost - min(self.share * lost, self.most))
        return Change(lost > 0)


@dataclasses.dataclass(frozen=True)
class Tidy(Pass):
    """Promises equal outputs, and changes something."""

    name: ClassVar[str] = "tidy"
    kind: ClassVar[Kind] = Kind.EXACT

    def run(self, model: ir.Model, context: Context) -> Change:
        put(model, "time", number(model, "time") - 1)
        return Change(True)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Stage]]:
    """Return what runs passes, with latency as the models say it is."""

    def latency(_: object, one: MeasuredModel, other: MeasuredModel, seconds: float = 1.0) -> PairedLatency:
        ratio = number(one.model, "time") / number(other.model, "time")
        timed = Latency(Percentiles(1.0, 1.0, 1.0), 1.0)
        return PairedLatency(timed, timed, Interval(ratio, 0.99 * ratio, 1.01 * ratio))

    monkeypatch.setattr(Judge, "latency", latency)

    def go(*passes: Pass, max_drop: float | None = 0.01, goal: Goal = Goal.LATENCY, count: int = COUNT) -> list[Stage]:
        model = from_text(MODEL)
        session = Session.of(model)
        x = ((np.arange(count) + 0.5) / count).astype(np.float32).reshape(-1, 1)
        samples = open_samples({"x": x, "labels": np.ones(count, np.int64)}, session.inputs)
        request = Request(model, Recipe(passes, max_drop), session.target, goal=goal)
        judge = Judge(Run(request, MeasuredModel(model, lambda: session), samples, samples), np.random.default_rng(0))
        context = make_context(model, samples, max_drop=max_drop, goal=goal)
        return run_passes(passes, judge, context)

    return go


@pytest.fixture
def grouped(run: Callable[..., list[Stage]]) -> Callable[..., list[Stage]]:
    """Return what runs passes with a budget of ten points, of which 200 samples tell as much as 2,000 of one."""
    return functools.partial(run, max_drop=0.1, count=200)


def time_of(stages: list[Stage]) -> float:
    return number(stages[-1].after.model, "time")


def test_what_paid_when_it_ran_and_does_not_in_the_end_is_left_out(run: Callable[..., list[Stage]]) -> None:
    stages = run(Split(), Tidy(), Round())
    assert [stage.kept for stage in stages] == [False, True, True]
    assert time_of(stages) == pytest.approx(49.5)
    record = stages[0].record()
    assert "left out in the end: without it the result is 1.60x as fast" in record.reason
    assert not any(attempt.kept for attempt in record.attempts)


def test_what_keeps_a_pass_behind_it_from_paying_is_left_out(run: Callable[..., list[Stage]]) -> None:
    stages = run(Split(), Round(on_split=1.2))
    assert [stage.kept for stage in stages] == [False, True]
    assert time_of(stages) == pytest.approx(50)
    assert "without it the result is 1.60x as fast" in stages[0].record().reason


def test_what_does_not_pay_without_the_pass_in_front_either_stays_out(run: Callable[..., list[Stage]]) -> None:
    stages = run(Split(0.51), Round(on_split=1.2))
    assert [stage.kept for stage in stages] == [True, False], "1.96x by the one, 2x by the other"


@pytest.mark.parametrize(
    ("passes", "goal"),
    [
        ((Split(), Round()), Goal.SIZE),
        ((Split(0.3), Round()), Goal.LATENCY),
        ((Round(), Split()), Goal.LATENCY),
        ((Split(),), Goal.LATENCY),
    ],
    ids=["size counts", "it brings much", "it comes last", "it is alone"],
)
def test_what_pays_stays(run: Callable[..., list[Stage]], passes: tuple[Pass, ...], goal: Goal) -> None:
    assert all(stage.kept for stage in run(*passes, goal=goal))


def test_what_is_left_of_the_budget_goes_to_the_first_pass_that_could_be_stronger(
    run: Callable[..., list[Stage]],
) -> None:
    alone = run(Narrow(), Round())
    shared = alone[0].outcome.forms
    assert alone[0].kept
    chosen = alone[0].outcome.form
    assert chosen.loss is not None
    assert 0.005 < chosen.loss.value <= 0.01, "half of the budget was its share at first, and nobody used the rest"
    assert chosen.strength == max(form.strength for form in shared if not form.against)
    assert len({form.strength for form in shared}) == len(shared), "no form is tried twice"
    assert alone[1].kept
    assert time_of(alone) == pytest.approx(50 * (1 - 0.8 * chosen.strength), rel=1e-3)


def test_nothing_is_tried_again_where_the_budget_is_used_up_or_was_not_given(run: Callable[..., list[Stage]]) -> None:
    without = run(Narrow(lost=0.2), Round(), max_drop=None)
    assert [len(stage.outcome.forms) for stage in without] == [1, 1]
    used = run(Narrow(), Narrow())
    last = used[-1].outcome.form.loss
    assert last is not None
    assert last.value <= 0.01
    assert all(stage.kept for stage in used)


def judged_with(stages: list[Stage]) -> list[str | None]:
    return [None if stage.later is None else stage.later.name for stage in stages]


def test_each_lossy_pass_is_judged_together_with_the_next_that_recovers(grouped: Callable[..., list[Stage]]) -> None:
    stages = grouped(Narrow(lost=0.4), Tidy(), Mend(), Narrow(lost=0.4), Mend())
    assert all(stage.kept for stage in stages)
    assert judged_with(stages) == ["mend", None, None, "mend", None]
    assert stages[0].outcome.form.loss is not None
    assert stages[0].outcome.form.loss.value > 0.3, "four times the budget, until it is won back"
    assert [len(stage.outcome.forms) for stage in stages] == [1] * 5, "at full strength"
    assert number(stages[-1].after.model, "cut") == pytest.approx(0.044, rel=1e-2)
    reasons = [stage.record().reason for stage in stages]
    assert [reason.startswith("judged together with mend") for reason in reasons] == [True, False, False, True, False]


@pytest.mark.parametrize("first", [True, False])
def test_only_a_group_that_does_not_hold_is_judged_pass_by_pass(
    grouped: Callable[..., list[Stage]], first: bool
) -> None:
    good, bad = (Narrow(lost=0.4), Mend()), (Narrow(lost=0.4), Mend(most=0.01))
    stages = grouped(*bad, *good) if first else grouped(*good, *bad)
    assert judged_with(stages) == ([None, None, "mend", None] if first else ["mend", None, None, None])
    assert all(stage.kept for stage in stages)
    milder = stages[0 if first else 2].outcome.form
    assert milder.strength < 1
    assert number(stages[-1].after.model, "cut") <= 0.1


def test_a_group_leaves_half_of_the_budget_to_those_behind_it_that_lose(grouped: Callable[..., list[Stage]]) -> None:
    group = Narrow(lost=0.4), Mend(share=0.8)  # 0.8 of the budget is lost
    assert judged_with(grouped(*group)) == ["mend", None]
    assert judged_with(grouped(*group, Mend(share=0.0))) == ["mend", None, None], "what only recovers needs none of it"
    assert judged_with(grouped(*group, Round())) == [None, None, None]


def test_without_a_budget_each_pass_is_judged_by_itself(grouped: Callable[..., list[Stage]]) -> None:
    assert judged_with(grouped(Narrow(lost=0.4), Mend(), Narrow(lost=0.4), max_drop=None)) == [None] * 3


def test_a_group_is_still_judged_as_one_where_a_pass_before_it_is_left_out(grouped: Callable[..., list[Stage]]) -> None:
    stages = grouped(Split(), Mend(), Round(on_split=1.2), Narrow(lost=0.4), Mend())
    assert [stage.kept for stage in stages] == [False, False, True, True, True]
    assert judged_with(stages)[3:] == ["mend", None]
    assert number(stages[-1].after.model, "cut") == pytest.approx(0.04, rel=1e-2)


def test_a_stronger_form_in_front_is_not_taken_where_a_group_does_not_hold_behind_it(
    grouped: Callable[..., list[Stage]],
) -> None:
    stages = grouped(Narrow(lost=0.4), Mend(most=0.0), Narrow(lost=0.5), Mend(most=0.495))
    assert all(stage.kept for stage in stages if isinstance(stage.asked, Narrow))
    assert number(stages[-1].after.model, "cut") <= 0.1
