"""Classification: top-1 and top-5 accuracy."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.ops.traits import Trait
from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.quality.expected import COLUMNS, UNREADABLE, believable, expected_drop, expected_row
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows, strongest, unreadable_labels
from onnxslim.runtime.statistics import Interval, bootstrap, paired_difference, wilson

EXPECTED = 6
"""First column of the part of a row for the estimate without labels."""
BEST = 5
"""Number of best classes for top-5, which needs more classes than that."""


class Reading(enum.Enum):
    """The form in which an output gives the class."""

    SCORES = "scores"
    """One score per class along an axis; the largest wins."""
    PROBABILITY = "probability"
    """A probability per decision: yes if above 0.5."""
    NUMBERS = "numbers"
    """The class itself: an integer, a string, or a map from classes to scores."""


@dataclasses.dataclass(frozen=True)
class Classification(Metric):
    """Top-1 and top-5: the share of correct decisions. A sample with many decisions counts by its share."""

    output: str
    """Name of the output of the classes."""
    reading: Reading = Reading.SCORES
    axis: int = -1
    """Axis of the classes, counted from the end."""
    classes: int = 2
    """Number of classes, if known."""

    name: ClassVar[str] = "classification"
    shares: ClassVar[frozenset[str]] = frozenset({"top-1", "top-5"})
    losses: ClassVar[tuple[str, str]] = "top-1 accuracy", "top-1 accuracy, as estimated without labels,"

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric if an output holds one score per class, a probability, or classes."""
        return strongest(_recognise_output(output, evidence) for output in evidence.outputs)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the row of a sample.

        Columns: correct before, after; in the best five before, after; equal decisions (all as shares); 1 with labels,
        else 0; and the columns of `expected_row` (NaN without scores).
        """
        before = self._decisions(reference)
        after = None if candidate is None else self._decisions(candidate)
        if after is not None and after.best.shape != before.best.shape:
            after = None
        if label is None:
            truth = before.best
            right = np.ones(truth.shape, np.bool_)
        else:
            truth = self._truth(label, len(before.best))
            right = np.asarray((before.best == truth) & before.valid)
        lost = np.zeros(truth.shape, np.bool_)
        wins = lost if after is None else np.asarray((after.best == truth) & (after.valid | (label is None)))
        same = lost if after is None else after.best == before.best
        five = right if label is None else before.among_best(truth)
        return [
            _share(right),
            _share(wins),
            _share(five),
            0.0 if after is None else _share(after.among_best(truth)),
            _share(same),
            float(label is not None),
            *_expected(before, after),
        ]

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return top-1, and top-5 if there are more classes."""
        means = rows.mean(axis=0)
        figures = {"top-1": Figure(float(means[0]), float(means[1]))}
        if self.reading is Reading.SCORES and self.classes > BEST:
            figures["top-5"] = Figure(float(means[2]), float(means[3]))
        return figures

    def loss(self, rows: Rows) -> float:
        """Return the fall of top-1, measured with labels, estimated without."""
        if _is_estimated(rows):
            return expected_drop(rows[:, EXPECTED:])
        return float((rows[:, 0] - rows[:, 1]).mean())

    def interval(self, rows: Rows, generator: np.random.Generator) -> Interval:
        """Return the loss of top-1 with its interval.

        With labels it is that of paired shares; without labels a bootstrap of the estimate, or Wilson's interval of the
        flips if there are no scores.
        """
        if _is_estimated(rows):
            return bootstrap(rows, self.loss, generator, self.resamples)
        before, after = rows[:, 0], rows[:, 1]
        if (before == 1).all():
            kept = wilson(float(after.sum()), len(after))
            return Interval(self.loss(rows), 1 - kept.high, 1 - kept.low)
        return paired_difference(before, after)

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the share of equal decisions of both models per sample."""
        return rows[:, 4]

    def _decisions(self, outputs: Outputs) -> _Decisions:
        value = outputs[self.output]
        if not isinstance(value, np.ndarray) or self.reading is Reading.NUMBERS:
            classes = value.reshape(-1) if isinstance(value, np.ndarray) else _named_classes(value)
            return _Decisions(classes, np.ones(classes.shape, np.bool_))
        if self.reading is Reading.PROBABILITY:
            numbers = value.reshape(-1)
            return _Decisions((numbers > 0.5).astype(np.int64), np.asarray(~np.isnan(numbers)))
        scores = np.moveaxis(value, self.axis, -1)
        scores = scores.reshape(-1, scores.shape[-1])
        return _Decisions(scores.argmax(-1), np.asarray(~np.isnan(scores).any(-1)), scores)

    def _truth(self, label: Array, decisions: int) -> Array:
        given = np.asarray(label)
        if given.dtype.kind in "iubUSO" and given.size == decisions:
            return given.reshape(-1)
        what = f"class numbers for {decisions} decision{'s' * (decisions != 1)} of {self.output}"
        raise unreadable_labels(label, what, "give integers, one for each sample")


@dataclasses.dataclass(frozen=True)
class _Decisions:
    """The decisions of one model for one sample."""

    best: Array
    """Class of each decision, shape [decisions]."""
    valid: Array
    """False if a score is NaN, so that the class means nothing; shape [decisions]."""
    scores: Array | None = None
    """Scores, shape [decisions, classes]; None if there are none."""

    def among_best(self, truth: Array) -> npt.NDArray[np.bool_]:
        """Return whether the true class is among the best five, shape [decisions]."""
        if self.scores is None or self.scores.shape[-1] <= BEST:
            return np.asarray((self.best == truth) & self.valid, np.bool_)
        best = np.argpartition(-self.scores, BEST - 1, axis=-1)[:, :BEST]
        return np.asarray((best == np.asarray(truth)[:, None]).any(-1) & self.valid, np.bool_)


def _expected(before: _Decisions, after: _Decisions | None) -> tuple[float, ...]:
    if before.scores is None or before.scores.shape[-1] < 2 or not before.valid.all() or not _is_bounded(before.scores):
        return (np.nan,) * COLUMNS
    if after is None or after.scores is None or after.scores.shape != before.scores.shape or not after.valid.all():
        return UNREADABLE
    return expected_row(before.scores, after.scores) if _is_bounded(after.scores) else UNREADABLE


def _is_bounded(scores: Array) -> bool:
    """Return whether the best class of each decision has a finite score; masked classes may be minus infinity."""
    return bool(np.isfinite(scores.max(-1)).all())


def _is_estimated(rows: Rows) -> bool:
    """Return whether the loss is estimated: there are no labels, and scores that can be used as probabilities."""
    kept = rows[:, EXPECTED:]
    return not rows[:, EXPECTED - 1].any() and not np.isnan(kept[:, 0]).any() and believable(kept)


def _share(right: Array) -> float:
    return float(right.mean()) if right.size else 1.0


def _named_classes(value: Any) -> Array:
    """Return the classes of a sequence of maps from class to score, or of other values that are not arrays."""
    items = value if isinstance(value, list) else [value]
    best = [max(item, key=item.__getitem__) if isinstance(item, Mapping) and item else str(item) for item in items]
    named = np.empty(len(best), object)
    named[:] = best
    return named


MOST_OF_A_STEP = 20
"""Limit of the classes of a step of a sequence; more are characters or phonemes, which is text."""

NAMED = re.compile(r"(?i)(logit|class|label|prob|softmax|categor|predict)")
"""Names of outputs of classes."""
NO_CLASSES = re.compile(r"(?i)(embed|feature|hidden|pool|repres|box|landmark|keypoint|pose|depth|flow|coord|regress)")
"""Names of outputs that are not classes."""


def _recognise_output(output: OutputEvidence, evidence: Evidence) -> Recognition | None:
    if not output.is_float:
        return _recognise_numbers(output, evidence)
    shape = output.shape
    excluded = bool(NO_CLASSES.search(output.name))
    if evidence.named or not excluded:
        binary = _recognise_probability(output, evidence) or _recognise_steps(output, evidence)
        if binary is not None:
            return binary
    squeezed = shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
    if len(squeezed) != 2 or squeezed[1] < 2:
        return None
    axis = -1 if squeezed == shape else 1 - len(shape)
    metric = Classification(output.name, Reading.SCORES, axis, squeezed[1])
    if excluded:
        return Recognition(metric, 0.5, "it was asked for") if evidence.named else None
    if output.made_by(Trait.RECURRENT, Trait.LAYER_NORMALIZATION) and not evidence.named:
        return None  # states, vectors
    holds = f"{output.name} {list(shape)} holds"
    if output.made_by(Trait.LOGISTIC) and not output.sums_to_one(axis) and not evidence.named:
        metric = dataclasses.replace(metric, reading=Reading.PROBABILITY)
        return Recognition(metric, 0.75, f"{holds} {squeezed[1]} probabilities of their own, yes from a half")
    if output.made_by(Trait.DISTRIBUTION) or output.sums_to_one(axis):
        return Recognition(metric, 0.95, f"{holds} probabilities of {squeezed[1]} classes")
    strength = 0.7 if NAMED.search(output.name) else 0.5
    return Recognition(metric, strength, f"{holds} a score for each of {squeezed[1]} classes")


def _recognise_probability(output: OutputEvidence, evidence: Evidence) -> Recognition | None:
    """Return the recognition of a probability: one number per sample or step, computed by a Sigmoid."""
    shape = output.shape
    steps = len(shape) == 1 or int(np.prod(shape[1:])) == 1
    if not shape or not steps or not (output.in_unit or evidence.named):
        return None
    if not (evidence.named or output.made_by(Trait.LOGISTIC) or NAMED.search(output.name)):
        return None
    metric = Classification(output.name, Reading.PROBABILITY)
    return Recognition(metric, 0.7, f"{output.name} {list(shape)} is a probability, yes from a half")


def _recognise_steps(output: OutputEvidence, evidence: Evidence) -> Recognition | None:
    """Return the recognition of a few classes per step of a sequence that is not text: stages of sleep, sounds."""
    shape = output.shape
    if len(shape) != 3 or not 2 <= shape[2] < MOST_OF_A_STEP or evidence.images or evidence.tokens is not None:
        return None
    named = NAMED.search(output.name)
    normal = output.made_by(Trait.DISTRIBUTION) or output.sums_to_one(-1)
    if not (named or normal or evidence.named):
        return None
    steps = max(shape[:2])
    reason = (
        f"{output.name} {list(shape)} holds {'probabilities' if normal else 'a score'} of each of {shape[2]} classes"
    )
    metric = Classification(output.name, Reading.SCORES, -1, shape[2])
    return Recognition(metric, 0.75 if normal else 0.65, f"{reason} for each of {steps} steps")


def _recognise_numbers(output: OutputEvidence, evidence: Evidence) -> Recognition | None:
    """Return the recognition of classes themselves: one integer or string per sample, or maps from class to score."""
    metric = Classification(output.name, Reading.NUMBERS)
    if output.arrays:
        single = all(array.size == count for array, count in zip(output.arrays, evidence.counts, strict=False))
        if single and output.shape and output.arrays[0].dtype.kind in "iuUSO":
            return Recognition(metric, 0.4, f"{output.name} {list(output.shape)} is one class for each sample")
        return None
    maps = all(isinstance(value, list) and value and isinstance(value[0], Mapping) for value in output.values)
    if output.values and maps:
        return Recognition(metric, 0.45, f"{output.name} maps classes to scores")
    return None
