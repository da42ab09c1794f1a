"""Runs a pass on a clone, and finds out which of its rewrites must be left out for the model to hold.

A pass that promises equal outputs and asks the context's gate before each rewrite is not rolled back as a whole: the
rewrites are bisected to the first after which the outputs differ, or the model does not load; it is left out, and the
rest is done again. Guilty sites are never shipped, and the report names them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxslim.errors import OnnxslimError, RunError, ValuesNotFinite
from onnxslim.foreign_code import foreign_code, is_ours
from onnxslim.observe.not_finite import first_not_finite
from onnxslim.pipeline.interface import Change, Context, Kind, Note, NoteCode, NoteKind, Pass, left_alone
from onnxslim.pipeline.judge import Judge
from onnxslim.pipeline.measured import MeasuredModel
from onnxslim.pipeline.reasons import Reason, ReasonCode
from onnxslim.pipeline.rewrite_gate import RewriteGate, RewriteSite

MAX_SITES_PER_RULE = 2
"""A rule that is guilty at this many sites is not used at all."""

MOST_GUILTY = 24
"""After so many sites were left out the whole pass is rolled back: more than single rules are wrong."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A pass that ran on a clone."""

    model: ir.Model | None
    """None: it is no longer needed."""
    change: Change
    gate: RewriteGate
    candidate: MeasuredModel | None
    """None: nothing was changed, or it does not load."""
    failure: Reason | None
    """Why it does not hold, or None."""
    error: Exception | None = None
    """What the pass raised."""
    left_out: tuple[RewriteSite, ...] = ()
    """Rewrites without which it holds."""

    def why_not(self) -> Reason:
        """Return why nothing was changed: what speaks about the model as a whole, else the first reason there is."""
        notes = sorted(self.change.notes, key=lambda note: note.subject != "model")
        note = next((note for note in notes if note.reason), None)
        if note is None:
            return Reason(ReasonCode.NOTHING_FOUND)
        return Reason(ReasonCode.NOTHING_TO_DO, (note.reason,), note.values)


_Run = Callable[["int | None"], Attempt]
"""Runs the pass anew, with no more rewrites than that."""


def attempt(step: Pass, current: MeasuredModel, judge: Judge, context: Context) -> Attempt:
    """Run a pass on a clone of `current`, without those of its rewrites that do not hold.

    Raises:
        OnnxslimError: The pass raised it.
        Exception: The pass raised it, and not by a rewrite that could be left out.
    """
    opset = current.model.opset_imports.get("", step.oldest_opset)
    if opset < step.oldest_opset:
        age = Reason(NoteCode.OLD_OPSET, (opset, step.oldest_opset))
        change = Change(False, (left_alone("model", age),))
        return Attempt(current.model, change, RewriteGate(), None, None)
    banned: dict[RewriteSite, Reason] = {}

    def run(limit: int | None) -> Attempt:
        # What a pass draws must not depend on how often it ran, nor on what those before it drew.
        generator = np.random.default_rng([context.seed, *step.name.encode()])
        gate = RewriteGate(limit=limit, banned=banned)
        return _run(step, current, judge, dataclasses.replace(context, generator=generator, gate=gate))

    tried = run(None)
    while tried.failure is not None and step.judged_as is Kind.EXACT and tried.gate.sites and len(banned) < MOST_GUILTY:
        context.progress(f"{step.name}: looking for the wrong rewrite", len(banned), None)
        guilty = _first_guilty(tried, run)
        if guilty is None:
            break
        site, why = guilty
        _ban(banned, site, why)
        tried = run(None)
    if tried.error is not None:
        raise tried.error
    if banned:
        left_out = tuple(_note(site, why) for site, why in banned.items())
        subjects = {note.subject for note in left_out}
        notes = tuple(note for note in tried.change.notes if note.subject not in subjects)
        change = dataclasses.replace(tried.change, notes=(*notes, *left_out))
        tried = dataclasses.replace(tried, change=change, left_out=tuple(banned))
    return tried


def _note(site: RewriteSite, why: Reason) -> Note:
    values = () if site.place is None else (site.place,)
    return Note(str(site), "left out", str(why), NoteKind.LEFT_OUT, why.code.word, values=values)


def _run(step: Pass, current: MeasuredModel, judge: Judge, context: Context) -> Attempt:
    clone = current.model.clone()
    gate = context.gate
    if judge.run.large and step.judged_as is Kind.LOSSY:
        judge.run.close_models()
    try:
        with contextlib.nullcontext() if is_ours(step) else foreign_code(f"the pass {step.name}"):
            change = step.run(clone, context)
        if not isinstance(change, Change):
            raise TypeError(f"its run returned {type(change).__name__}, not a Change")
    except ValuesNotFinite as error:
        begins = first_not_finite(context.original, context.samples, context.open_session)
        why = error.what if begins is None else str(begins)
        change = Change(False, (left_alone("model", Reason(NoteCode.NOT_FINITE, (why,))),))
        return Attempt(clone, change, gate, None, None)
    except OnnxslimError:
        raise
    except Exception as error:
        return Attempt(clone, Change(False), gate, None, raised(ReasonCode.RAISED, error), error)
    if not change.modified:
        return Attempt(clone, change, gate, None, None)
    candidate = MeasuredModel(clone, lambda: judge.run.open_session(clone))
    judge.run.models.add(candidate)
    try:
        if step.judged_as is Kind.EXACT:
            difference = judge.difference(current, candidate)
        else:
            difference, _ = None, candidate.session  # it must open
    except RunError as error:
        return Attempt(clone, change, gate, None, Reason(ReasonCode.DOES_NOT_RUN, (error.what,)))
    except Exception as error:  # onnx_ir raises what it likes where the graph is broken
        return Attempt(clone, change, gate, None, raised(ReasonCode.NO_MODEL, error))
    return Attempt(clone, change, gate, candidate, difference)


def raised(code: ReasonCode, error: Exception) -> Reason:
    """Return the reason that something is: an exception."""
    return Reason(code, (f"{type(error).__name__}: {error}",))


def _first_guilty(failed: Attempt, run: _Run) -> tuple[RewriteSite, Reason] | None:
    """Return the first rewrite after which the model does not hold, and why; None if it does not hold without any."""
    sites, why = failed.gate.sites, failed.failure
    assert why is not None, "it failed"
    if failed.error is not None:
        return sites[-1], why
    low, high = 0, len(sites)  # with `low` rewrites it holds, with `high` it does not
    if run(0).failure is not None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        tried = run(middle)
        if tried.failure is None:
            low = middle
        else:
            high, why = middle, tried.failure
    return sites[high - 1], why


def _ban(banned: dict[RewriteSite, Reason], site: RewriteSite, why: Reason) -> None:
    same_rule = [known for known in banned if known.rule == site.rule]
    if len(same_rule) + 1 < MAX_SITES_PER_RULE:
        banned[site] = why
        return
    for known in same_rule:
        del banned[known]
    banned[RewriteSite(site.rule, None)] = Reason(ReasonCode.SEVERAL_SITES, (len(same_rule) + 1,), cause=why)
