"""Runs all passes, one after the other, and looks back once: what does not pay in the end, and what is left to use."""

from __future__ import annotations

import dataclasses
import pathlib
import time
import traceback
from collections.abc import Sequence

from onnxslim.errors import OnnxslimError, PassFailed
from onnxslim.foreign_code import owner
from onnxslim.model import weight_bytes
from onnxslim.model.nesting import count_nodes
from onnxslim.pipeline.budget import Allowance, allowance
from onnxslim.pipeline.forms import Outcome, strongest_form
from onnxslim.pipeline.interface import Context, Goal, Kind, Pass
from onnxslim.pipeline.judge import Judge
from onnxslim.pipeline.measured import MeasuredModel
from onnxslim.pipeline.options import option_values
from onnxslim.pipeline.reasons import Reason, ReasonCode, describe
from onnxslim.pipeline.records import PassRecord, reason_record

SAFE = 2.0
"""A pass that made the model so many times as fast by itself is not asked again whether it pays."""
GAIN = 1.05
"""Without a pass the result must be so many times as fast for the pass to be left out in the end."""
LEFT = 0.3
"""Where so much of the budget is left in the end, the first pass that could be stronger is."""
GIVEN = 0.5
"""The part of what is left that it may use."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A pass that was run."""

    asked: Pass
    before: MeasuredModel
    outcome: Outcome
    seconds: float
    left_out: Reason | None = None
    """Why it was kept at first and is not in the end."""

    @property
    def kept(self) -> bool:
        """Whether the result has it."""
        return self.outcome.verdict.kept and self.left_out is None

    @property
    def slow(self) -> bool:
        """Whether it holds, and was rolled back because it made the model slower."""
        verdict = self.outcome.verdict
        return self.lossy and not verdict.kept and verdict.speed is not None and self.outcome.form.against is None

    @property
    def lossy(self) -> bool:
        """Whether it was held to the budget."""
        return self.asked.judged_as is Kind.LOSSY

    @property
    def after(self) -> MeasuredModel:
        """The model behind it."""
        made = self.outcome.form.attempt.candidate
        return made if self.kept and made is not None else self.before

    def judged_with(self, later: Pass) -> Stage:
        """Return it with the reason that `later` decides whether it holds."""
        verdict = self.outcome.verdict
        if not verdict.kept:
            return self
        reasons = (Reason(ReasonCode.JUDGED_LATER, (later.name,)), *verdict.reasons[1:])
        outcome = dataclasses.replace(self.outcome, verdict=dataclasses.replace(verdict, reasons=reasons))
        return dataclasses.replace(self, outcome=outcome)

    def record(self) -> PassRecord:
        """Return what the report holds of it."""
        tried = self.outcome.form.attempt
        nodes = count_nodes(self.before.model)
        verdict, attempts = self.outcome.verdict.with_reason(self.left_out), self.outcome.attempts
        if self.left_out is not None:
            why = (reason_record(self.left_out),)
            attempts = tuple(
                dataclasses.replace(form, kept=False, reason=why[0].text, reasons=why) if form.kept else form
                for form in attempts
            )
        return PassRecord(
            name=self.asked.name,
            options=option_values(self.outcome.form.step if self.kept else self.asked),
            kind=self.asked.judged_as.value,
            kept=self.kept,
            reason=describe(verdict.reasons),
            reasons=tuple(map(reason_record, verdict.reasons)),
            seconds=self.seconds,
            nodes=(nodes, nodes if tried.model is None else count_nodes(tried.model)),
            changes=tried.change.notes,
            layers=tried.change.layers,
            sensitivity=tried.change.sensitivity,
            asked=option_values(self.asked),
            attempts=attempts,
        )


def run_passes(passes: Sequence[Pass], judge: Judge, context: Context) -> list[Stage]:
    """Run every pass on what the last kept one left.

    Passes are judged one by one, in their order; lossy ones before a pass that recovers are judged together with it, at
    full strength, and by themselves where the whole does not hold. Then the result is looked at as a whole, once: a
    pass that paid when it ran, and does not with those behind it, or keeps them from paying (factors of low rank are
    faster in float, and often not in int8), is left out; and where much of the budget is left, the first pass that
    could be stronger is tried so. Either is done only where the result gets better by it.

    Raises:
        OnnxslimError: A pass raised it.
        PassFailed: A pass raised something else: a bug.
    """
    stages = _in_turn(passes, judge, context, _recovery(passes, judge))
    stages = _without_what_does_not_pay(stages, judge, context)
    return _with_what_is_left(stages, judge, context)


def _recovery(passes: Sequence[Pass], judge: Judge) -> int | None:
    """Return the place of the pass that those before it are judged together with; None where there is none."""
    if judge.request.max_drop is None:
        return None
    return next((number for number, step in enumerate(passes) if step.recovers), None)


def _in_turn(passes: Sequence[Pass], judge: Judge, context: Context, recovery: int | None) -> list[Stage]:
    """Run passes one after the other; lossy ones before the place `recovery` are judged there."""
    stages: list[Stage] = []
    current = judge.run.original
    for number, step in enumerate(passes):
        context.progress(f"{step.name}", number, len(passes))
        later = sum(following.judged_as is Kind.LOSSY for following in passes[number + 1 :])
        allowed = _allowed(step, current, judge, later)
        deferred = recovery is not None and number < recovery and step.judged_as is Kind.LOSSY
        stage = _stage(step, current, judge, context, None if deferred else allowed, done=stages)
        if deferred:
            assert recovery is not None
            stage = stage.judged_with(passes[recovery])
        stages.append(stage)
        current = stage.after
        if number == recovery and allowed is not None and any(stage.lossy and stage.kept for stage in stages[:-1]):
            lost = judge.loss(current)
            if lost is None or not allowed.holds(lost):
                return _in_turn(passes, judge, context, None)
    return stages


def _allowed(step: Pass, current: MeasuredModel, judge: Judge, later: int) -> Allowance | None:
    if judge.request.max_drop is None or step.judged_as is Kind.EXACT:
        return None
    lost = judge.loss(current)
    return allowance(judge.request.max_drop, 0.0 if lost is None else lost.value, later, judge.request.confidence)


def _stage(
    step: Pass,
    current: MeasuredModel,
    judge: Judge,
    context: Context,
    allowed: Allowance | None,
    *,
    known: Outcome | None = None,
    fixed: float | None = None,
    done: Sequence[Stage] = (),
) -> Stage:
    started = time.perf_counter()
    try:
        outcome = strongest_form(step, current, judge, context, allowed, known, fixed)
    except OnnxslimError:
        raise
    except MemoryError as error:
        raise OnnxslimError(
            "out of memory",
            where=f"the pass {step.name}",
            hint="close other programs, use a machine with more memory, or leave the pass out with -p",
        ) from error
    except Exception as error:
        before = ", ".join(stage.asked.name for stage in done) or "no other pass"
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise PassFailed(
            f"raised {type(error).__name__}: {error} ({pathlib.Path(frame.filename).name}, line {frame.lineno})",
            where=f"the pass {step.name} (after {before})",
            hint=f"this is a bug in {owner(step)}; leave the pass out with -p, and please report it",
        ) from error
    return Stage(step, current, outcome, time.perf_counter() - started)


def _without_what_does_not_pay(stages: list[Stage], judge: Judge, context: Context) -> list[Stage]:
    """Leave out the pass that brought least speed, if without it the result is faster.

    Passes behind it that were rolled back because they made the model slower get another chance: it may have been the
    pass in front that made them so.
    """
    if judge.request.goal is not Goal.LATENCY or not judge.request.timed:
        return stages
    faster = [
        index
        for index, stage in enumerate(stages)
        if (stage.kept or stage.slow) and stage.lossy and stage.asked.speeds_up and stage.asked.pursues is not Goal.SIZE
    ]
    speeds = {
        index: speed.value
        for index in faster[:-1]
        if stages[index].kept and (speed := stages[index].outcome.verdict.speed) is not None
    }
    if not speeds or min(speeds.values()) >= SAFE:
        return stages
    index = min(speeds, key=lambda index: speeds[index])
    context.progress(f"without {stages[index].asked.name}", 0, None)
    tail = _again(stages[index + 1 :], stages[index].before, judge, context, with_slow=True)
    if tail is None:
        return stages
    ratio = judge.latency(stages[-1].after, tail[-1].after).ratio
    if ratio.low < GAIN:
        return stages
    why = Reason(ReasonCode.FASTER_WITHOUT, (ratio.value, ratio.low, ratio.high))
    return [*stages[:index], dataclasses.replace(stages[index], left_out=why), *tail]


def _with_what_is_left(stages: list[Stage], judge: Judge, context: Context) -> list[Stage]:
    """Try the first pass that could be stronger with half of what is left of the budget."""
    budget = judge.request.max_drop
    lost = None if budget is None else judge.loss(stages[-1].after)
    if budget is None or lost is None:
        return stages
    left = budget - max(0.0, lost.value)
    milder = [stage.kept and stage.lossy and stage.outcome.form.strength < 1 for stage in stages]
    index = milder.index(True) if any(milder) else None
    if index is None or left < LEFT * budget:
        return stages
    stage = stages[index]
    here = judge.loss(stage.after)
    used = 0.0 if here is None else max(0.0, here.value)
    allowed = Allowance(min(budget, used + GIVEN * left), budget, judge.request.confidence)
    again = _stage(stage.asked, stage.before, judge, context, allowed, known=stage.outcome)
    if not again.kept or again.outcome.form.strength == stage.outcome.form.strength:
        return stages
    again = dataclasses.replace(again, seconds=again.seconds + stage.seconds)
    tail = _again(stages[index + 1 :], again.after, judge, context)
    if tail is None:
        return stages
    stronger = [*stages[:index], again, *tail]
    return stronger if _is_better(stages[-1].after, stronger[-1].after, judge) else stages


def _again(
    stages: Sequence[Stage], current: MeasuredModel, judge: Judge, context: Context, *, with_slow: bool = False
) -> list[Stage] | None:
    """Run passes once more on another model, in the forms in which they were kept; None where one does not hold.

    `with_slow` runs those, too, that were rolled back because they made the model slower.
    """
    found: list[Stage] = []
    for stage in stages:
        if not (stage.kept or (with_slow and stage.slow)):
            found.append(dataclasses.replace(stage, before=current))
            continue
        form = stage.outcome.form
        allowed = None
        if stage.lossy and judge.request.max_drop is not None:
            allowed = Allowance(judge.request.max_drop, judge.request.max_drop, judge.request.confidence)
        again = _stage(form.step, current, judge, context, allowed, fixed=form.strength)
        if stage.kept and stage.lossy and not again.kept:
            return None
        found.append(dataclasses.replace(again, asked=stage.asked, seconds=again.seconds + stage.seconds))
        current = found[-1].after
    return found


def _is_better(one: MeasuredModel, other: MeasuredModel, judge: Judge) -> bool:
    smaller = weight_bytes(other.model) < weight_bytes(one.model)
    if judge.request.goal is Goal.SIZE or not judge.request.timed:
        return smaller
    ratio = judge.latency(one, other).ratio
    return ratio.low > 1 or (smaller and ratio.high >= 1)
