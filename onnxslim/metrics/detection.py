"""Detection: how many boxes are found again, and mean average precision, at an overlap of a half."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.errors import DataError
from onnxslim.quality.boxes import MOST_KEPT as MOST
from onnxslim.quality.boxes import Boxes, match, mean_average_precision
from onnxslim.quality.detectors import recognise_head
from onnxslim.quality.evidence import Evidence
from onnxslim.quality.heads import Head
from onnxslim.quality.metric import Array, Figure, Metric, Outputs, Recognition, Rows, Slice
from onnxslim.runtime.statistics import Interval, bootstrap

OVERLAP = 0.5
"""Intersection over union from which on two boxes are the same; and beyond which one of two is suppressed."""
SCORE = 0.25
"""Score from which on a box counts as found: what most deployments of YOLO use."""
COUNTS = 7
"""Columns of a row before its lists of boxes."""


@dataclasses.dataclass(frozen=True)
class Detection(Metric):
    """Boxes that are matched with the true ones, and mAP, at IoU 0.5; classes must be the same.

    "matched boxes" is F1 of the boxes from a score of `score` on: twice the matches over all boxes of both sides. mAP
    looks at all scores. "score error" is how far the scores of matched boxes are apart in the two models, on average.
    """

    head: Head
    parts: tuple[Slice, ...] = ()
    score: float = SCORE

    name: ClassVar[str] = "detection"
    same_shapes: ClassVar[bool] = False
    resamples: ClassVar[int] = 200
    units: ClassVar[Mapping[str, str]] = {"score error": ""}
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"score error"})

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric where the outputs are the head of a detector."""
        sighting = recognise_head(evidence)
        if sighting is None:
            return None
        seen = [_best(sighting.head, run) for run in _single_runs(evidence)]
        score, note = _threshold(seen)
        return Recognition(cls(sighting.head, sighting.slices, score), 0.9, sighting.reason + note)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return counts of boxes and matches of both models, and each box's score and class, and whether it is right.

        The first columns: matches before, boxes before, matches after, boxes after, true boxes, sum of score errors
        (of a box that is lost: its score), matches between the models; then the lists.
        """
        before = self._boxes(reference)
        after = Boxes.none() if candidate is None or not self._alike(reference, candidate) else self._boxes(candidate)
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
        """Return the loss with its bootstrap interval, of the counts alone."""
        return bootstrap(rows[:, :COUNTS], self.loss, generator)

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return per image the share (F1) of boxes that both models see."""
        return np.array([_f1(row[6], row[1], row[3]) for row in rows])

    def lost(self, labelled: bool) -> str:
        """Return what the loss is a loss of."""
        return "the boxes" if labelled else "the boxes that the original sees"

    def slices(self) -> tuple[Slice, ...]:
        """Return the boxes and the scores, where they lie in one tensor."""
        return self.parts

    def _alike(self, reference: Outputs, candidate: Outputs) -> bool:
        """Whether a candidate's outputs can be read: all but a dynamic number of boxes must be the same."""
        if self.head.is_dynamic:
            return bool(np.shape(reference[self.head.boxes])[-1:] == np.shape(candidate[self.head.boxes])[-1:])
        return all(np.shape(reference[name]) == np.shape(candidate[name]) for name in self.head.outputs)

    def _boxes(self, outputs: Outputs) -> Boxes:
        return _best(self.head, outputs)


def _best(head: Head, outputs: Outputs) -> Boxes:
    return head.read(outputs, OVERLAP).best(MOST)


def _single_runs(evidence: Evidence) -> list[Outputs]:
    count = len(evidence.counts)
    return [{output.name: output.values[index] for output in evidence.outputs} for index in range(count)]


def _threshold(seen: Sequence[Boxes]) -> tuple[float, str]:
    """Return the score from which on boxes count, and a note where the original hardly sees any from 0.25 on."""
    scores = np.sort(np.concatenate([boxes.scores for boxes in seen]))[::-1] if seen else np.zeros(0)
    wanted = max(1, len(seen))  # one a sample
    if (scores >= SCORE).sum() * 4 >= wanted or not len(scores):
        return SCORE, "" if len(scores) else "; on these samples it sees nothing"
    score = float(scores[min(len(scores), wanted) - 1])
    return score, f"; it sees hardly anything from a score of {SCORE} on, so boxes count from {score:.3f}"


def _true_boxes(label: Array) -> Boxes:
    given = np.asarray(label, np.float64)
    if given.ndim != 2 or given.shape[1] != 5:
        raise DataError(
            f"labels of shape {list(given.shape)} for an image are no boxes",
            where="labels",
            hint="give corners and class, [N, M, 5], with a class below 0 where there is no box; or --metric "
            "module:function",
        )
    given = given[np.isfinite(given).all(axis=1) & (given[:, 4] >= 0)]
    return Boxes(given[:, :4], np.ones(len(given)), given[:, 4].astype(np.int64))


def _listed(found: Boxes, truth: Boxes) -> list[float]:
    right = match(found, truth, OVERLAP) >= 0
    return [*_padded(found.scores), *_padded(right), *_padded(found.classes)]


def _padded(values: npt.NDArray[np.generic]) -> list[float]:
    """Return the first numbers, and -1 for those that are missing."""
    listed = [float(value) for value in values[:MOST]]
    return listed + [-1.0] * (MOST - len(listed))


def _f1(matches: float, one: float, other: float) -> float:
    return float(2 * matches / (one + other)) if one + other else 1.0


def _precision(boxes: npt.NDArray[np.float64], truths: npt.NDArray[np.int64]) -> float:
    scores, right, classes = (boxes[:, index] for index in range(3))
    there = scores >= 0
    return mean_average_precision(scores[there], right[there] > 0, classes[there].astype(np.int64), truths)
