"""Decides whether what a pass did holds: the tenet's "measure -> keep or roll back"."""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.errors import RunError
from onnxslim.pipeline.interface import Kind, Pass
from onnxslim.runner.accuracy import Metric, measure_accuracy
from onnxslim.runner.fidelity import Fidelity, measure_fidelity
from onnxslim.runner.latency import PairedLatency, compare_latency
from onnxslim.runner.session import Session
from onnxslim.runner.statistics import Interval
from onnxslim.runner.target import Target

TOLERANCES = {"f": 1e-4, "e": 1e-2, "d": 1e-7}
"""Largest difference of an EXACT pass, relative to the largest magnitude of the output, by numpy's type character.

Folding a normalisation into a convolution rounds each weight once, and some hundred layers add that up; float16 (e)
has 11 bits of mantissa. Whole numbers must be equal.
"""
BATCH, BATCH_ELEMENTS = 32, 4_000_000
"""Samples, and elements of the inputs, that run at once when quality is measured: speed without much memory."""
PROBES = 4
"""Samples on which an EXACT pass is checked: a wrong rewrite is wrong on any of them, rounding does not need many."""


class Goal(enum.Enum):
    """What a pass must bring to be kept."""

    LATENCY = "latency"
    """It must not make the model slower beyond noise."""
    SIZE = "size"
    """It may, as long as the model gets smaller."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a change is kept, and why."""

    kept: bool
    reason: str


class Candidate:
    """A model as it stands between two passes, with a session on it and what was measured of it so far."""

    def __init__(self, model: ir.Model, session: Session) -> None:
        self.model = model
        self.session = session
        self.fidelity: Fidelity | None = None
        self.accuracy: Interval | None = None


@dataclasses.dataclass
class Judge:
    """Compares what came out of a pass with what went in, and with the original."""

    original: Candidate
    samples: Samples
    """Validation samples: no pass sees them."""
    target: Target
    generator: np.random.Generator
    metric: Metric
    max_drop: float | None
    goal: Goal
    measure: bool
    """False: outputs are compared, nothing is timed."""

    @functools.cached_property
    def feeds(self) -> dict[str, np.ndarray[Any, Any]]:
        """The one sample that latency is measured on."""
        return dict(self.samples.first())

    @functools.cached_property
    def batch(self) -> int:
        """How many samples run at once: several where the original takes them and gives each an output of its own."""
        elements = sum(array.size for array in self.feeds.values())
        several = min(BATCH, max(1, BATCH_ELEMENTS // max(1, elements)))
        first = next(self.samples.batches(several), None)
        if first is None or first.count < 2:
            return 1
        try:
            outputs = self.original.session.run(first.feeds)
        except RunError:
            return 1
        return several if all(np.shape(output)[:1] == (first.count,) for output in outputs.values()) else 1

    def measure_accuracy(self, candidate: Candidate) -> Interval | None:
        """Return the accuracy, measured once for each candidate; None without labels."""
        if candidate.accuracy is None and self.samples.labelled:
            candidate.accuracy = measure_accuracy(candidate.session, self.samples, self.metric, size=self.batch)
        return candidate.accuracy

    def measure_fidelity(self, candidate: Candidate) -> Fidelity | None:
        """Return the fidelity to the original, measured once for each candidate; None on synthetic samples."""
        if candidate.fidelity is None and not self.samples.synthetic:
            candidate.fidelity = measure_fidelity(
                self.original.session, candidate.session, self.samples, generator=self.generator, size=self.batch
            )
        return candidate.fidelity

    def drop(self, candidate: Candidate) -> float | None:
        """Return how much was lost against the original, as a fraction; None where nothing can be said.

        With labels it is the drop of accuracy (negative where it rose), without them one minus the agreement, and for
        outputs without classes the noise relative to the signal.
        """
        before, after = self.measure_accuracy(self.original), self.measure_accuracy(candidate)
        if before is not None and after is not None:
            return before.value - after.value
        fidelity = self.measure_fidelity(candidate)
        if fidelity is None:
            return None
        if fidelity.agreement is not None:
            return 1 - fidelity.agreement.value
        if fidelity.sqnr_db is not None:
            return math.pow(10, -fidelity.sqnr_db.value / 20)
        return 0.0 if fidelity.max_abs_error == 0 else None

    def verdict(self, step: Pass, before: Candidate, after: Candidate) -> Verdict:
        """Say whether the change from `before` to `after` that `step` made is kept."""
        if step.judged_as is Kind.EXACT:
            difference = self.difference(before.session, after.session)
            if difference is not None:
                return Verdict(False, f"the outputs changed: {difference}")
        elif self.max_drop is not None:
            drop = self.drop(after)
            if drop is None:
                return Verdict(False, "the budget cannot be checked: no output can be compared")
            if drop > self.max_drop:
                return Verdict(False, f"{self._lost(drop)} where {self.max_drop:.2%} may be")
        return self._pays(step, before, after)

    def _lost(self, drop: float) -> str:
        return f"{drop:.2%} of {'accuracy' if self.samples.labelled else 'agreement with the original'} would be lost"

    def _pays(self, step: Pass, before: Candidate, after: Candidate) -> Verdict:
        kept = "outputs unchanged" if step.judged_as is Kind.EXACT else self._within()
        if not self.measure:
            return Verdict(True, kept)
        paired = self.latency(before, after)
        ratio = paired.ratio
        figures = f"{ratio.value:.2f}x the speed of before ({ratio.low:.2f} to {ratio.high:.2f})"
        if ratio.high < 1 and self.goal is Goal.LATENCY and step.judged_as is Kind.LOSSY:
            return Verdict(False, f"slower here: {figures}; --goal size keeps it")
        return Verdict(True, f"{kept}; {figures}")

    def _within(self) -> str:
        if self.samples.synthetic:
            return "fidelity not claimed: the samples are synthetic"
        return "no budget given" if self.max_drop is None else "within the budget"

    def latency(self, before: Candidate, after: Candidate, seconds: float = 1.0) -> PairedLatency:
        """Return the paired latency of two candidates on one sample."""
        return compare_latency(before.session, after.session, self.feeds, generator=self.generator, seconds=seconds)

    def difference(self, before: Session, after: Session) -> str | None:
        """Return the first difference beyond rounding between the outputs of two sessions, or None."""
        for batch in itertools.islice(self.samples.batches(), PROBES):
            wanted, got = before.run(batch.feeds), after.run(batch.feeds)
            for name, reference in wanted.items():
                difference = _difference(reference, got[name])
                if difference is not None:
                    return f"{name}: {difference}"
        return None


def _difference(reference: Any, value: Any) -> str | None:
    for one, other in zip(_arrays(reference), _arrays(value), strict=True):
        if one.shape != other.shape:
            return f"shape {list(other.shape)} in place of {list(one.shape)}"
        tolerance = TOLERANCES.get(one.dtype.char, 5e-2 if one.dtype.name == "bfloat16" else 0.0)
        if not tolerance:
            if not np.array_equal(one, other):
                return f"{np.mean(one != other):.2%} of the values differ"
            continue
        one, other = one.astype(np.float64), other.astype(np.float64)
        if not np.array_equal(np.isfinite(one), np.isfinite(other)):
            return "other values are not finite"
        finite = np.isfinite(one)
        error = np.abs(one[finite] - other[finite]).max(initial=0.0) / (np.abs(one[finite]).max(initial=0.0) or 1.0)
        if error > tolerance:
            return f"relative difference {error:.1e}, at most {tolerance:.0e} is rounding"
    return None


def _arrays(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the arrays in an output: a tensor, or the lists and maps that tree ensembles give."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _arrays(each)
    elif value is not None:
        yield np.asarray(value)
