"""Boxes: overlaps, suppression of double ones, matching with the true ones, average precision. All vectorised."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MOST_BOXES = 1000
"""Boxes of one image that suppression looks at, the best ones: what comes after them is noise."""
MOST_KEPT = 100
"""Boxes of one image that count, the best ones, as in COCO; when so many are kept suppression is done."""


@dataclasses.dataclass(frozen=True)
class Boxes:
    """What was detected in one image, or what is there."""

    corners: Floats
    """Two opposite corners, shape [n, 4]: x1, y1, x2, y2 (or y first, as long as it is always so)."""
    scores: Floats
    """Shape [n]; 1 for what is there."""
    classes: Ints
    """Shape [n]."""

    @classmethod
    def none(cls) -> Boxes:
        """Return no box at all."""
        return cls(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, which: Ints | npt.NDArray[np.bool_]) -> Boxes:
        """Return some of them."""
        return Boxes(self.corners[which], self.scores[which], self.classes[which])

    def above(self, score: float) -> Boxes:
        """Return those of a score of at least `score`."""
        return self.take(self.scores >= score)

    def best(self, most: int) -> Boxes:
        """Return the best ones, at most `most`, by falling score."""
        return self.take(np.argsort(-self.scores, kind="stable")[:most])


def corners_of_centres(boxes: Floats) -> Floats:
    """Return the corners of boxes that are given by centre and size, shape [n, 4]."""
    half = np.abs(boxes[:, 2:]) / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def overlaps(one: Floats, other: Floats) -> Floats:
    """Return the intersection over union of each box of `one` with each of `other`, shape [n, m]."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (one, other)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float64)


def suppress(boxes: Boxes, most_overlap: float) -> Boxes:
    """Return the best boxes without those that overlap a better one of their class by more than `most_overlap`.

    Boxes of different classes are moved apart, so that one pass does for all. Ties go by position, then by class: the
    order in which boxes are given does not matter.
    """
    order = np.lexsort((*boxes.corners.T, boxes.classes, -boxes.scores))[:MOST_BOXES]
    boxes = boxes.take(order)
    extent = float(np.ptp(boxes.corners)) + 1 if len(boxes) else 1.0
    apart = boxes.corners + (boxes.classes * extent)[:, None]
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < MOST_KEPT:
        kept.append(int(left[0]))
        left = left[1:][overlaps(apart[left[:1]], apart[left[1:]])[0] <= most_overlap]
    return boxes.take(np.array(kept, np.int64))


def match(found: Boxes, truth: Boxes, least_overlap: float) -> Ints:
    """Return for each found box the true one that it is matched with, -1 for none, shape [n].

    By falling score each takes the box of its class that it overlaps most, at least by `least_overlap`, and that is not
    taken yet (as COCO and Pascal VOC do).
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
    """Return the mean over classes of the area under precision and recall, of the boxes of many images.

    Args:
        scores: Of every box that was found, shape [n].
        right: Whether it is matched with a true one, shape [n].
        classes: Its class, shape [n].
        truths: The class of every true box, shape [m]; classes without one do not count.

    Source: precision made monotone, the area under it summed at each recall (Pascal VOC 2010 and later).
    """
    wanted, totals = np.unique(truths, return_counts=True)
    if not len(wanted):
        return 1.0 if not len(scores) else 0.0
    order = np.lexsort((-scores, classes))
    scores, right, classes = scores[order], right[order], classes[order]
    starts, ends = np.searchsorted(classes, wanted, "left"), np.searchsorted(classes, wanted, "right")
    areas = [_area(right[start:end], total) for start, end, total in zip(starts, ends, totals, strict=True)]
    return float(np.mean(areas))


def _area(right: npt.NDArray[np.bool_], total: int) -> float:
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float((precision * right).sum() / total)
