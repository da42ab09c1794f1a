"""Decides whether what a pass did holds: the tenet's "measure -> keep or roll back"."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import time
from typing import Any

import numpy as np

from onnxslim.errors import RunError
from onnxslim.pipeline.budget import Allowance, samples_to_settle
from onnxslim.pipeline.difference import difference, distance, shapes_of
from onnxslim.pipeline.interface import Goal, Kind, Pass
from onnxslim.pipeline.measured import MeasuredModel, Run
from onnxslim.pipeline.probes import InputProbe, draw_probes, rounded_otherwise
from onnxslim.pipeline.reasons import Reason, ReasonCode
from onnxslim.pipeline.records import NOT_ASKED
from onnxslim.quality.choosing import choose_metric
from onnxslim.quality.measure import Quality, measure_quality
from onnxslim.quality.metric import Recognition
from onnxslim.runtime.latency import PairedLatency
from onnxslim.runtime.statistics import Interval
from onnxslim.runtime.timing import Source, compare_latency

BATCH, BATCH_ELEMENTS = 32, 4_000_000
"""Samples, and elements of the inputs, that run at once when quality is measured: speed without much memory."""
PROBE_SECONDS, PROBE_RUNS = 0.2, (3.0, 24.0)
"""An EXACT pass is checked on inputs that take as long as so many seconds of the sample, but on the worth of 3 runs at
least and 24 at most; each symbolic dimension gets a second size in any case."""
CLEARLY_SLOWER = 0.9
"""Speed relative to before at which a pass that changes no node, and means to be no faster, has done harm after all."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a change is kept, and why."""

    kept: bool
    reasons: tuple[Reason, ...]
    speed: Interval | None = None
    """How many times as fast as before, where that was measured."""

    def with_reason(self, reason: Reason | None) -> Verdict:
        """Return the verdict with one more reason, if there is one."""
        return self if reason is None else dataclasses.replace(self, reasons=(*self.reasons, reason))


class Judge:
    """Compares what came out of a pass with what went in, and with the original."""

    def __init__(self, run: Run, generator: np.random.Generator) -> None:
        """Judge the passes of a run; `generator` orders what is timed, and draws the bootstraps."""
        self.run, self.request = run, run.request
        self.generator = generator

    @functools.cached_property
    def feeds(self) -> dict[str, np.ndarray[Any, Any]]:
        """The one sample that latency is measured on; none where nothing is run."""
        return dict(self.run.validation.first()) if self.request.check else {}

    @functools.cached_property
    def batch(self) -> int:
        """How many samples run at once: several where the original takes them and gives each an output of its own."""
        elements = sum(getattr(array, "size", 1) for array in self.feeds.values())  # a sequence is a list
        several = min(BATCH, max(1, BATCH_ELEMENTS // max(1, elements)))
        first = next(self.run.validation.batches(several), None)
        if first is None or first.count < 2:
            return 1
        try:
            outputs = self.run.original.session.run(first.feeds)
        except RunError:
            return 1
        return several if all(getattr(output, "shape", ())[:1] == (first.count,) for output in outputs.values()) else 1

    @functools.cached_property
    def recognition(self) -> Recognition:
        """The metric that the original is judged by, and why."""
        return choose_metric(
            self.request.metric, self.run.original.session, self.run.original.model, self.run.validation
        )

    def measure_quality(self, candidate: MeasuredModel) -> Quality | None:
        """Return the quality against the original, measured once for each candidate; None on synthetic samples."""
        if candidate.quality is None and not self.run.validation.synthetic:
            candidate.quality = measure_quality(
                self.recognition,
                self.run.original.session,
                candidate.session,
                self.run.validation,
                generator=copy.deepcopy(self._drawing),
                size=self.batch,
            )
        return candidate.quality

    @functools.cached_property
    def _drawing(self) -> np.random.Generator:
        """Draws the bootstraps, alike for all candidates: how often something was timed must not change a verdict."""
        return self.generator.spawn(1)[0]

    def loss(self, candidate: MeasuredModel) -> Interval | None:
        """Return how much was lost against the original, in the metric's terms; None where nothing can be said."""
        quality = self.measure_quality(candidate)
        return None if quality is None else quality.loss

    @property
    def of_what(self) -> str:
        """What a loss is a loss of."""
        metric = self.recognition.metric
        return metric.lost(self.run.validation.labelled and metric.reads_labels)

    def against(self, loss: Interval | None, allowed: Allowance) -> Reason | None:
        """Return why a model with that loss does not hold; None where it does."""
        if loss is None:
            return Reason(ReasonCode.BUDGET_UNCHECKED)
        if allowed.holds(loss):
            return None
        if loss.value > allowed.limit:
            words = (loss.value, self.of_what, allowed.limit, allowed.total)
            return Reason(ReasonCode.OVER_BUDGET if allowed.limit >= allowed.total else ReasonCode.OVER_SHARE, words)
        bound = (allowed.bound(loss), allowed.confidence, allowed.total)
        return Reason(ReasonCode.OVER_BOUND, (loss.value, self.of_what, *bound))

    def pays(self, step: Pass, before: MeasuredModel, after: MeasuredModel, loss: Interval | None = None) -> Verdict:
        """Say whether the change from `before` to `after` that `step` made is kept, now that it holds.

        That an EXACT step left the outputs as they were is asked before, of `difference`; that a LOSSY one is within
        the budget, of `loss`.
        """
        unchanged = Reason(ReasonCode.OUTPUTS_UNCHANGED if self.request.check else ReasonCode.NOT_COMPARED)
        kept = unchanged if step.judged_as is Kind.EXACT else self._within(loss)
        if not self.request.timed:
            return Verdict(True, (kept,))
        untimed = step.untimed(self.request.target.provider)
        if untimed is not None:
            return Verdict(True, (kept, untimed))
        try:
            ratio = self.latency(before, after).ratio
        except RunError as error:
            return Verdict(False, (Reason(ReasonCode.NOT_TIMED, (error.what,)),))
        figures = (ratio.value, ratio.low, ratio.high)
        if (
            ratio.high < (1.0 if step.speeds_up else CLEARLY_SLOWER)
            and (step.pursues or self.request.goal) is Goal.LATENCY
            and step.judged_as is Kind.LOSSY
        ):
            return Verdict(False, (Reason(ReasonCode.SLOWER, figures),), ratio)
        return Verdict(True, (kept, Reason(ReasonCode.SPEED, figures)), ratio)

    def _within(self, loss: Interval | None) -> Reason:
        max_drop = self.request.max_drop
        if self.run.validation.synthetic:
            return Reason(ReasonCode.NOT_CLAIMED)
        if max_drop is None:
            return Reason(ReasonCode.NO_BUDGET)
        if loss is None:
            return Reason(ReasonCode.WITHIN_BUDGET)
        if loss.high <= max_drop:
            return Reason(ReasonCode.WITHIN_BUDGET_LOSS, (loss.value,))
        needed = samples_to_settle(loss, max_drop, self.run.validation.count)
        if needed is None:
            return Reason(ReasonCode.WITHIN_BUDGET_UNSURE, (loss.value, loss.low, loss.high))
        return Reason(ReasonCode.WITHIN_BUDGET_SAMPLES, (loss.value, loss.low, loss.high, needed))

    def nothing_claimed(self) -> str:
        """Return why nothing is said about the quality of a result."""
        if not self.request.check:
            return NOT_ASKED
        if self.run.validation.synthetic:
            return "not claimed: the samples are synthetic"
        return "no output can be compared"

    def latency(
        self, before: MeasuredModel, after: MeasuredModel, seconds: float = 1.0, starts: int = 1
    ) -> PairedLatency:
        """Return the latency of two candidates on one sample, and how many times as fast `after` is as `before`.

        It takes about `seconds`, in which the processes are started anew `starts` times.

        Raises:
            RunError: One of them does not run.
        """
        sources = self._source(before), self._source(after)
        target = self.request.target
        return compare_latency(*sources, self.feeds, target, generator=self.generator, seconds=seconds, starts=starts)

    def _source(self, candidate: MeasuredModel) -> Source:
        """Return what is timed: the session that is open already where no second copy of a model may be opened."""
        if not self.request.target.facts.own_process:
            return candidate.session
        return candidate.model if candidate.path is None else candidate.path

    @functools.cached_property
    def probes(self) -> tuple[InputProbe, ...]:
        """The inputs on which EXACT passes are checked: those that the original runs on, as many as time allows."""
        generator = np.random.default_rng(len(self.feeds))  # of its own: how many it draws depends on the machine
        drawn = draw_probes(self.run.original.session.inputs, self.feeds, generator)
        first = next(drawn)
        session, trial_run = self.run.original.session, self.run.validation.trial_run
        if trial_run is not None and trial_run.session() is session:
            outputs, seconds = dict(trial_run.outputs), trial_run.seconds
        else:
            started = time.perf_counter()
            outputs = session.run(first.feeds)
            seconds = time.perf_counter() - started
        self.run.original.probe_outputs[0] = outputs
        least, most = PROBE_RUNS
        left = min(most, max(least, PROBE_SECONDS / max(seconds, 1e-6))) - first.cost
        chosen, seen = [first], set[str]()
        for probe in drawn:
            symbol = probe.at.partition(" = ")[0]
            if symbol in seen and probe.cost > left:
                continue
            known = _run_probe(self.run.original, probe)
            if known is not None:
                left -= probe.cost
                seen.add(symbol)
                self.run.original.probe_outputs[len(chosen)] = known
                chosen.append(probe)
        return tuple(chosen)

    def difference(self, before: MeasuredModel, after: MeasuredModel) -> Reason | None:
        """Return the first difference beyond rounding between the outputs of two models, or None.

        Outputs that differ from one run of `before` to the next are random: their types and shapes must agree.

        Raises:
            RunError: `before` does not run on the sample.
        """
        if not self.request.check:
            return None
        for number, probe in enumerate(self.probes):
            if number not in before.probe_outputs:
                before.probe_outputs[number] = _run_probe(before, probe) if number else before.session.run(probe.feeds)
        if self.run.low_memory:
            before.close()
        for number, probe in enumerate(self.probes):
            references = before.probe_outputs[number]
            if references is None:
                continue
            size = f" (at {probe.at})" if probe.at else ""
            try:
                outputs = after.session.run(probe.feeds)
            except RunError as error:
                return Reason(ReasonCode.STOPPED_RUNNING, (error.what, size))
            after.probe_outputs[number] = outputs
            for name, reference in references.items():
                why = difference(reference, outputs[name])
                if why is not None and (why := self._beyond_noise(before, probe, name, reference, outputs[name])):
                    return Reason(ReasonCode.OUTPUTS_CHANGED, (name, size), (name,), why)
        if self.run.low_memory:
            after.close()
        return None

    def _beyond_noise(
        self, before: MeasuredModel, probe: InputProbe, name: str, reference: Any, output: Any
    ) -> Reason | None:
        """Ask once more, knowing how much an output depends on rounding: of the inputs, or else within the model."""
        again = before.session.run(probe.feeds, [name])[name]
        if difference(reference, again) is not None and shapes_of(reference) == shapes_of(output):
            return None  # it is random
        rounded = rounded_otherwise(probe, np.random.default_rng(0))
        session = before.session if rounded is not None else before.plain_session
        noise = distance(reference, session.run(probe.feeds if rounded is None else rounded, [name])[name])
        return difference(reference, output, noise if math.isfinite(noise) else 0.0)


def _run_probe(candidate: MeasuredModel, probe: InputProbe) -> dict[str, Any] | None:
    try:
        return candidate.session.run(probe.feeds)
    except RunError:
        return None
