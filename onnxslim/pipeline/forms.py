"""Runs a pass in the strongest form that the budget allows, and records every form that was tried."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from onnxslim.errors import RunError
from onnxslim.model import weight_bytes
from onnxslim.pipeline.attempt import Attempt, attempt
from onnxslim.pipeline.budget import Allowance
from onnxslim.pipeline.interface import Context, Kind, Pass
from onnxslim.pipeline.judge import Judge, Verdict
from onnxslim.pipeline.measured import MeasuredModel
from onnxslim.pipeline.observations import Observations
from onnxslim.pipeline.options import changed_options, option_values
from onnxslim.pipeline.reasons import Reason, ReasonCode, describe
from onnxslim.pipeline.records import AttemptRecord, reason_record
from onnxslim.pipeline.strength import MOST_TRIES, Trial, next_strength, strongest
from onnxslim.runtime.statistics import Interval

NOT_TIMED = "only the form that may be kept is timed"


@dataclasses.dataclass(frozen=True)
class StrengthTrial:
    """A pass at one strength, what it made of the model, and what that loses."""

    step: Pass
    strength: float
    attempt: Attempt
    loss: Interval | None
    """What is lost in all; None where it is not known, or nothing was changed."""
    charged: float | None
    """The loss as it counts against the budget."""
    against: Reason | None
    """Why it does not hold; None where it does."""
    size: float | None
    """Bytes of the weights of the original divided by those left; None where nothing was changed."""
    seconds: float

    @property
    def trial(self) -> Trial:
        """What the search looks at."""
        return Trial(self.strength, self.charged, self.against is None)

    def judged_again(self, allowed: Allowance, judge: Judge) -> StrengthTrial:
        """Return it as it stands where something else may be lost."""
        if self.loss is None:
            return self
        return dataclasses.replace(self, charged=allowed.charged(self.loss), against=judge.against(self.loss, allowed))

    def without_model(self) -> StrengthTrial:
        """Return it without the models, which fill memory."""
        return dataclasses.replace(self, attempt=dataclasses.replace(self.attempt, candidate=None, model=None))

    def record(self, verdict: Verdict | None) -> AttemptRecord:
        """Return what the report holds of it; `verdict` is that on the form that was chosen, None for the others."""
        speed = None if verdict is None else verdict.speed
        if self.against is not None:
            reasons: tuple[Reason, ...] = (self.against,)
        else:
            reasons = (Reason(ReasonCode.STRONGER_HOLDS),) if verdict is None else verdict.reasons
        unknown = str(self.against or "nothing was changed, or there is nothing to compare")
        return AttemptRecord(
            options=option_values(self.step),
            strength=self.strength,
            loss=self.loss,
            size=self.size,
            latency=speed,
            kept=verdict is not None and verdict.kept,
            reason=describe(reasons),
            seconds=self.seconds,
            reasons=tuple(map(reason_record, reasons)),
            loss_reason=None if self.loss else unknown,
            size_reason=None if self.size else unknown,
            latency_reason=None if speed else NOT_TIMED if verdict is None else "not timed",
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a pass."""

    form: StrengthTrial
    """The form that is kept; where none is, the mildest that was tried."""
    verdict: Verdict
    forms: tuple[StrengthTrial, ...]
    """All that were tried, in this order; those that were not chosen have no model any more."""
    observations: Observations
    """What the tries have found out."""

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:
        """Every form as the report holds it; none of an EXACT pass, which has only one."""
        if self.form.step.judged_as is Kind.EXACT:
            return ()
        return tuple(form.record(self.verdict if form is self.form else None) for form in self.forms)


def strongest_form(
    step: Pass,
    current: MeasuredModel,
    judge: Judge,
    context: Context,
    allowed: Allowance | None,
    known: Outcome | None = None,
    fixed: float | None = None,
) -> Outcome:
    """Run a pass on the model as it stands; where it may not lose all, in the strongest form that holds.

    Where `allowed` is None anything may be lost, and the pass runs as it was asked for. Where `known` is what came of
    it on the same model when less might be lost, the search goes on from there. `fixed` is how strong it is where no
    other form is to be tried.

    Raises:
        OnnxslimError: The pass raised it.
        Exception: The pass raised it, and not by a rewrite that could be left out.
    """
    spent = 0.0
    if allowed is not None and (before := judge.loss(current)) is not None:
        spent = max(0.0, before.value)

    observations = Observations() if known is None else known.observations
    context = dataclasses.replace(context, observations=observations)

    def run(form: Pass, strength: float) -> StrengthTrial:
        return _run(form, strength, allowed, spent, current, judge, context)

    if allowed is None or fixed is not None or step.milder(1.0) is None:
        forms = [run(step, 1.0 if fixed is None else fixed)]
    else:
        tried = [] if known is None else [form.judged_again(allowed, judge) for form in known.forms]
        forms = _search(step, tried, spent, allowed.limit, run, context)
    best = strongest([form.trial for form in forms])
    chosen = next((form for form in forms if form.trial == best), min(forms, key=lambda form: form.strength))
    verdict = _verdict(chosen, forms, current, judge)
    if chosen.attempt.left_out and chosen.against is None:
        sites = chosen.attempt.left_out
        places = tuple(site.place for site in sites if site.place is not None)
        names = ", ".join(map(str, sites))
        verdict = verdict.with_reason(Reason(ReasonCode.REWRITES_LEFT_OUT, (names,), places))
    return Outcome(chosen, verdict, tuple(forms), observations)


def _search(
    step: Pass,
    known: Sequence[StrengthTrial],
    spent: float,
    limit: float,
    run: Callable[[Pass, float], StrengthTrial],
    context: Context,
) -> list[StrengthTrial]:
    """Return the forms that were tried; only the strongest that holds, and the last, still have their models."""
    forms = list(known)
    while True:
        trials = [form.trial for form in forms]
        strength = next_strength(trials, spent, limit, step.opening, MOST_TRIES + len(known))
        if strength is None:
            return forms
        as_asked = strength == step.opening == 1.0
        milder = step if as_asked else step.milder(strength)
        assert milder is not None, "a pass has milder forms, or none"
        if forms:
            context.progress(f"{step.name}: at strength {strength:.2f}", len(forms), None)
        form = run(milder, strength)
        incomparable = form.attempt.candidate is not None and form.attempt.failure is None and form.charged is None
        forms.append(form)
        if incomparable:
            return forms
        best = strongest([form.trial for form in forms])
        forms = [tried if tried is form or tried.trial == best else tried.without_model() for tried in forms]


def _run(
    step: Pass,
    strength: float,
    allowed: Allowance | None,
    spent: float,
    current: MeasuredModel,
    judge: Judge,
    context: Context,
) -> StrengthTrial:
    started = time.perf_counter()
    tried = attempt(step, current, judge, context)
    loss: Interval | None = None
    charged: float | None = None
    size: float | None = None
    against = tried.failure
    if tried.candidate is None or tried.model is None:
        charged = spent if against is None else None
    else:
        size = weight_bytes(judge.run.original.model) / max(weight_bytes(tried.model), 1)
    if tried.candidate is not None and against is None and step.judged_as is Kind.LOSSY:
        try:
            loss = judge.loss(tried.candidate)
        except RunError as error:
            against = Reason(ReasonCode.DOES_NOT_RUN, (error.what,))
        else:
            if allowed is not None:
                charged = None if loss is None else allowed.charged(loss)
                against = judge.against(loss, allowed)
    return StrengthTrial(step, strength, tried, loss, charged, against, size, time.perf_counter() - started)


def _verdict(chosen: StrengthTrial, forms: Sequence[StrengthTrial], current: MeasuredModel, judge: Judge) -> Verdict:
    """Say whether the form that was chosen is kept, and what the next one would have cost."""
    if chosen.against is not None:
        mildest = (Reason(ReasonCode.MILDEST),) if len(forms) > 1 else ()
        return Verdict(False, (chosen.against, *mildest))
    failed = [form for form in forms if form.against is not None and form.strength > chosen.strength]
    stronger = min(failed, key=lambda form: form.strength, default=None)
    next_form = None
    if stronger is not None:
        options = changed_options(option_values(chosen.step), option_values(stronger.step)) or "a stronger form"
        next_form = Reason(ReasonCode.STRONGER_FORM, (options,), cause=stronger.against)
    if chosen.attempt.candidate is None:
        return Verdict(False, (chosen.attempt.why_not(),)).with_reason(next_form)
    try:
        verdict = judge.pays(chosen.step, current, chosen.attempt.candidate, chosen.loss)
    except RunError as error:
        return Verdict(False, (Reason(ReasonCode.DOES_NOT_RUN, (error.what,)),))
    return verdict.with_reason(next_form)
