"""Runs all passes, one after the other, and looks back once: what does not pay in the end, and what is left to use."""

from __future__ import annotations

import dataclasses
import itertools
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
    later: Pass | None = None
    """The pass that it is judged together with; None: it was judged by itself."""

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

    def judged_with(self, later: Pass | None) -> Stage:
        """Return it with the reason that `later`, if any, decides whether it holds."""
        verdict = self.outcome.verdict
        if later is None or not verdict.kept:
            return self
        reasons = (Reason(ReasonCode.JUDGED_LATER, (later.name,)), *verdict.reasons[1:])
        outcome = dataclasses.replace(self.outcome, verdict=dataclasses.replace(verdict, reasons=reasons))
        return dataclasses.replace(self, outcome=outcome, later=later)

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
    stages: list[Stage] = []
    for group in _groups(passes):
        stages += _judged_in_the_end(passes, group, stages, judge, context) or _in_turn(
            passes, group, stages, judge, context
        )
    stages = _without_what_does_not_pay(stages, judge, context)
    return _with_what_is_left(stages, judge, context)


def _groups(passes: Sequence[Pass]) -> list[range]:
    """Return the places of passes that are judged together: each group ends with one that recovers, but for the last.

    What a pass loses is won back by the next one behind it that recovers.
    """
    ends = [number + 1 for number, step in enumerate(passes) if step.recovers]
    return [range(start, end) for start, end in itertools.pairwise([0, *ends, len(passes)]) if start < end]


def _judged_in_the_end(
    passes: Sequence[Pass], group: range, done: Sequence[Stage], judge: Judge, context: Context
) -> list[Stage] | None:
    """Run a group at full strength, and judge it by what its last pass makes of it; None where that does not hold, or
    there is nothing to judge so."""
    last = passes[group[-1]]
    lossy = [passes[number] for number in group[:-1] if passes[number].judged_as is Kind.LOSSY]
    if judge.request.max_drop is None or not last.recovers or not lossy:
        return None
    before = done[-1].after if done else judge.run.original
    allowed = _allowed(last, before, judge, passes[group.stop :])
    assert allowed is not None, "there is a budget"
    stages = _in_turn(passes, group, done, judge, context, allowed)
    if all(stage.later is None for stage in stages):
        return stages
    lost = judge.loss(stages[-1].after)
    return stages if lost is not None and allowed.holds(lost) else None


def _in_turn(
    passes: Sequence[Pass],
    group: range,
    done: Sequence[Stage],
    judge: Judge,
    context: Context,
    whole: Allowance | None = None,
) -> list[Stage]:
    """Run the passes of a group one after the other, each judged by itself.

    Where `whole` is given, it is what the group may lose: only the last pass is held to it.
    """
    stages: list[Stage] = []
    current = done[-1].after if done else judge.run.original
    for number in group:
        step = passes[number]
        context.progress(f"{step.name}", number, len(passes))
        deferred = whole is not None and number < group[-1] and step.judged_as is Kind.LOSSY
        allowed = whole if whole is not None else _allowed(step, current, judge, passes[number + 1 :])
        judged = not deferred and step.judged_as is Kind.LOSSY
        here = dataclasses.replace(context, behind=tuple(passes[number + 1 :]))
        stage = _stage(step, current, judge, here, allowed if judged else None, done=[*done, *stages])
        stages.append(stage.judged_with(passes[group[-1]] if deferred else None))
        current = stage.after
    return stages


def _allowed(step: Pass, current: MeasuredModel, judge: Judge, behind: Sequence[Pass]) -> Allowance | None:
    """Return what may have been lost behind a pass; None: anything.

    Part of what is left is kept for those behind it that lose: what recovers needs none.
    """
    if judge.request.max_drop is None or step.judged_as is Kind.EXACT:
        return None
    lost = judge.loss(current)
    later = sum(each.judged_as is Kind.LOSSY and not each.recovers for each in behind)
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
    followed = _followed_by(stages[index + 1 :], context)
    again = _stage(stage.asked, stage.before, judge, followed, allowed, known=stage.outcome)
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
    for number, stage in enumerate(stages):
        if not (stage.kept or (with_slow and stage.slow)):
            found.append(dataclasses.replace(stage, before=current))
            continue
        form = stage.outcome.form
        allowed = _all_of_it(judge) if stage.lossy and stage.later is None else None
        here = _followed_by(stages[number + 1 :], context)
        again = _stage(form.step, current, judge, here, allowed, fixed=form.strength)
        if stage.kept and stage.lossy and not again.kept:
            return None
        again = dataclasses.replace(again, asked=stage.asked, seconds=again.seconds + stage.seconds)
        found.append(again.judged_with(stage.later))
        current = found[-1].after
    budget = _all_of_it(judge)
    if budget is not None and any(stage.later is not None for stage in found):
        lost = judge.loss(current)  # what won back before may not have done so now
        return found if lost is not None and budget.holds(lost) else None
    return found


def _followed_by(stages: Sequence[Stage], context: Context) -> Context:
    """Return the context of a pass that is run once more, with those behind it."""
    return dataclasses.replace(context, behind=tuple(stage.asked for stage in stages))


def _all_of_it(judge: Judge) -> Allowance | None:
    """Return the whole budget."""
    budget = judge.request.max_drop
    return None if budget is None else Allowance(budget, budget, judge.request.confidence)


def _is_better(one: MeasuredModel, other: MeasuredModel, judge: Judge) -> bool:
    smaller = weight_bytes(other.model) < weight_bytes(one.model)
    if judge.request.goal is Goal.SIZE or not judge.request.timed:
        return smaller
    ratio = judge.latency(one, other).ratio
    return ratio.low > 1 or (smaller and ratio.high >= 1)
