"""Boxes: overlaps, suppression of duplicates, matching with true boxes, and average precision."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Floats

Ints = npt.NDArray[np.int64]

MOST_BOXES = 1000
"""Maximum of boxes per image before suppression, by score."""
MOST_KEPT = 100
"""Maximum of boxes per image after suppression, by score, as in COCO."""


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Detected or true boxes of one image."""

    corners: Floats
    """Opposite corners, shape [n, 4]: x1, y1, x2, y2 (or consistently y first)."""
    scores: Floats
    """Shape [n]; 1 for true boxes."""
    classes: Ints
    """Shape [n]."""

    @classmethod
    def none(cls) -> Boxes:
        """Return an empty set of boxes."""
        return cls(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: Ints | npt.NDArray[np.bool_]) -> Boxes:
        """Return the boxes at indices or of a mask."""
        return Boxes(self.corners[which], self.scores[which], self.classes[which])

    def above(self, score: float) -> Boxes:
        """Return the boxes with a score of at least `score`."""
        return self.take(self.scores >= score)

    def best(self, most: int) -> Boxes:
        """Return at most `most` boxes, by descending score."""
        return self.take(np.argsort(-self.scores, kind="stable")[:most])


def corners_of_centres(boxes: Floats) -> Floats:
    """Return the corners of boxes given by centre and size, shape [n, 4]."""
    half = np.abs(boxes[:, 2:]) / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def overlaps(left: Floats, right: Floats) -> Floats:
    """Return the intersection over union of all pairs of boxes of `left` [n, 4] and `right` [m, 4], shape [n, m]."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (left, right)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float64)


def suppress(boxes: Boxes, most_overlap: float) -> Boxes:
    """Return the boxes without those that overlap a better box of their class by more than `most_overlap`.

    Boxes of different classes are shifted apart, so that one pass handles all classes. Ties are broken by position and
    class, so the order of the boxes does not matter.
    """
    order = np.lexsort((*boxes.corners.T, boxes.classes, -boxes.scores))[:MOST_BOXES]
    boxes = boxes.take(order)
    extent = float(np.ptp(boxes.corners)) + 1 if len(boxes) else 1.0
    shifted = boxes.corners + (boxes.classes * extent)[:, None]
    remaining = np.arange(len(boxes))
    kept: list[int] = []
    while len(remaining) and len(kept) < MOST_KEPT:
        kept.append(int(remaining[0]))
        remaining = remaining[1:][overlaps(shifted[remaining[:1]], shifted[remaining[1:]])[0] <= most_overlap]
    return boxes.take(np.array(kept, np.int64))


def match(found: Boxes, truth: Boxes, least_overlap: float) -> Ints:
    """Return the index of the matched true box of each found box, -1 if there is none, shape [n].

    By descending score, a box is matched with the free true box of its class that it overlaps most, at least by
    `least_overlap` (as in COCO and Pascal VOC).
    """
    matched = np.full(len(found), -1, np.int64)
    if not len(found) or not len(truth):
        return matched
    table = overlaps(found.corners, truth.corners)
    table[found.classes[:, None] != truth.classes[None]] = 0.0
    free = np.ones(len(truth), np.bool_)
    for index in np.lexsort((*found.corners.T, -found.scores)):
        best = int(np.argmax(np.where(free, table[index], -1.0)))
        if free[best] and table[index, best] >= least_overlap:
            matched[index] = best
            free[best] = False
    return matched


def mean_average_precision(scores: Floats, right: npt.NDArray[np.bool_], classes: Ints, truths: Ints) -> float:
    """Return the mean over classes of the area under the precision-recall curve, for the boxes of many images.

    Args:
        scores: Scores of the found boxes, shape [n].
        right: Whether a box is matched with a true box, shape [n].
        classes: Classes of the found boxes, shape [n].
        truths: Classes of the true boxes, shape [m]; classes without a true box do not count.

    Source: monotone precision, summed at each recall (Pascal VOC 2010 and later).
    """
    true_classes, totals = np.unique(truths, return_counts=True)
    if not len(true_classes):
        return 1.0 if not len(scores) else 0.0
    order = np.lexsort((-scores, classes))
    scores, right, classes = scores[order], right[order], classes[order]
    starts, ends = np.searchsorted(classes, true_classes, "left"), np.searchsorted(classes, true_classes, "right")
    areas = [_area(right[start:end], total) for start, end, total in zip(starts, ends, totals, strict=True)]
    return float(np.mean(areas))


def _area(right: npt.NDArray[np.bool_], total: int) -> float:
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((precision * right).sum() / total)
