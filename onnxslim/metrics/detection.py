"""Detection: share of matched boxes, and mean average precision, at IoU 0.5."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.quality.boxes import MOST_KEPT as MOST
from onnxslim.quality.boxes import Boxes, match, mean_average_precision
from onnxslim.quality.detectors import recognise_head
from onnxslim.quality.evidence import Evidence
from onnxslim.quality.heads import Head
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows, Slice, unreadable_labels
from onnxslim.runtime.statistics import Interval, bootstrap

OVERLAP = 0.5
"""Intersection over union from which two boxes match, and above which one of two is suppressed."""
SCORE = 0.25
"""Score from which a box counts as found, as in most deployments of YOLO."""
COUNTS = 7
"""Number of columns of a row before its lists of boxes."""


@dataclasses.dataclass(frozen=True)
class Detection(Metric):
    """Boxes matched with the true boxes of the same class, and mAP, at IoU 0.5.

    "matched boxes" is F1 of the boxes with at least the score `score`: twice the matches over the boxes of both sides.
    mAP uses all scores. "score error" is the mean difference between the scores of matched boxes of the two models.
    """

    head: Head
    parts: tuple[Slice, ...] = ()
    score: float = SCORE

    name: ClassVar[str] = "detection"
    losses: ClassVar[tuple[str, str]] = "the boxes", "the boxes that the original sees"
    same_shapes: ClassVar[bool] = False
    resamples: ClassVar[int] = 200
    units: ClassVar[Mapping[str, str]] = {"score error": ""}

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric if the outputs are the head of a detector."""
        recognised = recognise_head(evidence)
        if recognised is None:
            return None
        boxes = [_best(recognised.head, run) for run in _single_runs(evidence)]
        score, note = _threshold(boxes)
        return Recognition(cls(recognised.head, recognised.slices, score), 0.9, recognised.reason + note)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the row of a sample: counts of boxes and matches, then lists of boxes.

        Columns of counts: matches before, boxes before, matches after, boxes after, true boxes, sum of score errors
        (the score, for a lost box), matches between the models. Lists: score, correctness and class of the boxes of
        both models, and the true classes.
        """
        before = _best(self.head, reference)
        compatible = candidate is not None and self._is_compatible(reference, candidate)
        after = _best(self.head, candidate) if candidate is not None and compatible else Boxes.none()
        truth = before.above(self.score) if label is None else _true_boxes(label)
        truth = truth.best(MOST)
        confident = [boxes.above(self.score) for boxes in (before, after)]
        hits = [int((match(boxes, truth, OVERLAP) >= 0).sum()) for boxes in confident]
        between = match(after, confident[0], OVERLAP)
        paired = between >= 0
        errors = np.abs(after.scores[paired] - confident[0].scores[between[paired]])
        lost = np.delete(confident[0].scores, between[paired])
        both = (match(confident[1], confident[0], OVERLAP) >= 0).sum()
        counts = [hits[0], len(confident[0]), hits[1], len(confident[1]), len(truth), errors.sum() + lost.sum(), both]
        lists = [*_listed(before, truth), *_listed(after, truth), *_padded(truth.classes)]
        return [float(number) for number in (*counts, *lists)]

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return matched boxes (F1), mAP and score error."""
        sums = rows[:, :COUNTS].sum(axis=0)
        boxes = rows[:, COUNTS:].reshape(len(rows), 7, MOST)
        truths = boxes[:, 6]
        known = truths[truths >= 0].astype(np.int64)
        precision = [_precision(boxes[:, start : start + 3], known) for start in (0, 3)]
        error = sums[5] / sums[1] if sums[1] else 0.0
        return {
            "matched boxes": Figure(_f1(sums[0], sums[1], sums[4]), _f1(sums[2], sums[3], sums[4])),
            "mAP 50": Figure(*precision),
            "score error": Figure(0.0, float(error)),
        }

    def loss(self, rows: Rows) -> float:
        """Return the fall of the share of matched boxes."""
        sums = rows[:, :COUNTS].sum(axis=0)
        return _f1(sums[0], sums[1], sums[4]) - _f1(sums[2], sums[3], sums[4])

    def interval(self, rows: Rows, generator: np.random.Generator) -> Interval:
        """Return the loss with its bootstrap interval, from the counts only."""
        return bootstrap(rows[:, :COUNTS], self.loss, generator)

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the share (F1) of boxes that both models find, per image."""
        return np.array([_f1(row[6], row[1], row[3]) for row in rows])

    def slices(self) -> tuple[Slice, ...]:
        """Return the slices of boxes and scores if they are in one tensor."""
        return self.parts

    def _is_compatible(self, reference: Outputs, candidate: Outputs) -> bool:
        """Return whether a candidate's outputs have the same shapes, except for a dynamic number of boxes."""
        if self.head.is_dynamic:
            return bool(np.shape(reference[self.head.boxes])[-1:] == np.shape(candidate[self.head.boxes])[-1:])
        return all(np.shape(reference[name]) == np.shape(candidate[name]) for name in self.head.outputs)


def _best(head: Head, outputs: Outputs) -> Boxes:
    return head.read(outputs, OVERLAP).best(MOST)


def _single_runs(evidence: Evidence) -> list[Outputs]:
    count = len(evidence.counts)
    return [{output.name: output.values[index] for output in evidence.outputs} for index in range(count)]


def _threshold(runs: Sequence[Boxes]) -> tuple[float, str]:
    """Return the minimum score of boxes that count, and a note if the original finds almost none from 0.25."""
    scores = np.sort(np.concatenate([boxes.scores for boxes in runs]))[::-1] if runs else np.zeros(0)
    expected = max(1, len(runs))  # one per sample
    if (scores >= SCORE).sum() * 4 >= expected or not len(scores):
        return SCORE, "" if len(scores) else "; on these samples it sees nothing"
    score = float(scores[min(len(scores), expected) - 1])
    return score, f"; it sees hardly anything from a score of {SCORE} on, so boxes count from {score:.3f}"


def _true_boxes(label: Array) -> Boxes:
    given = np.asarray(label, np.float64)
    if given.ndim != 2 or given.shape[1] != 5:
        hint = "give corners and class, [N, M, 5], with a class below 0 where there is no box"
        raise unreadable_labels(given, "boxes of an image", hint)
    given = given[np.isfinite(given).all(axis=1) & (given[:, 4] >= 0)]
    return Boxes(given[:, :4], np.ones(len(given)), given[:, 4].astype(np.int64))


def _listed(found: Boxes, truth: Boxes) -> list[float]:
    right = match(found, truth, OVERLAP) >= 0
    return [*_padded(found.scores), *_padded(right), *_padded(found.classes)]


def _padded(values: npt.NDArray[np.generic]) -> list[float]:
    """Return the first `MOST` numbers, padded with -1."""
    listed = [float(value) for value in values[:MOST]]
    return listed + [-1.0] * (MOST - len(listed))


def _f1(matches: float, found: float, true: float) -> float:
    return float(2 * matches / (found + true)) if found + true else 1.0


def _precision(boxes: npt.NDArray[np.float64], truths: npt.NDArray[np.int64]) -> float:
    scores, right, classes = (boxes[:, index] for index in range(3))
    valid = scores >= 0
    return mean_average_precision(scores[valid], right[valid] > 0, classes[valid].astype(np.int64), truths)
