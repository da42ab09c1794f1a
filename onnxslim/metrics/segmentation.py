"""Segmentation: mean intersection over union of the classes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.ops.traits import Trait
from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows, unreadable_labels

FEWEST = 8
"""Minimum size of an axis of a map."""
MOST_CLASSES = 256

NAMED = re.compile(r"(?i)(seg|mask)")
OTHER = re.compile(r"(?i)(flow|depth|disp|heat|keypoint|normal|image|recon|denois|super|embed|feature|hidden|attn)")


@dataclasses.dataclass(frozen=True)
class Segmentation(Metric):
    """Mean IoU over the classes that occur in all samples together, and the share of correct positions.

    With one map per class (`axis`), the largest score wins. Without it, every number is a mark of its own, on above
    `threshold`; marks that are on are compared for each output.
    """

    outputs: tuple[str, ...]
    axis: int | None = None
    """Axis of the classes, counted from the end; None: every number is a mark, or a class."""
    classes: int = 1
    """Number of classes; 1: only marks that are on."""
    threshold: float = 0.5

    name: ClassVar[str] = "segmentation"
    losses: ClassVar[tuple[str, str]] = "mean IoU", "mean IoU with the original"
    resamples: ClassVar[int] = 500

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric if outputs are maps of classes or marks."""
        found = [_recognise_map(output, evidence) for output in evidence.outputs]
        best = max(filter(None, found), key=lambda candidate: candidate.strength, default=None)
        if best is None:
            return None
        chosen = [candidate for candidate in filter(None, found) if candidate.is_like(best)]
        metric = cls(tuple(candidate.output for candidate in chosen), best.axis, best.classes, best.threshold)
        return Recognition(metric, best.strength, "; ".join(candidate.reason for candidate in chosen))

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the row: intersection and union before, and after, of each output and class; then counts of positions.

        The last columns count all positions, correct before, correct after, and equal in both.
        """
        counts: list[float] = []
        positions = right = kept = equal = 0
        for name in self.outputs:
            before = self._marks(reference[name])
            after = None if candidate is None else self._marks(candidate[name])
            truth = before if label is None else self._truth(label, before)
            for number in range(self.classes):
                mark = 1 if self.classes == 1 else number
                expected = truth == mark
                for marks in (before, after):
                    actual = np.zeros(expected.shape, np.bool_) if marks is None else marks == mark
                    counts += [float((expected & actual).sum()), float((expected | actual).sum())]
            positions += truth.size
            right += int((before == truth).sum())
            kept += 0 if after is None else int((after == truth).sum())
            equal += 0 if after is None else int((after == before).sum())
        return [*counts, float(positions), float(right), float(kept), float(equal)]

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the mean IoU and the share of correct positions."""
        sums = rows.sum(axis=0)
        tables = sums[:-4].reshape(-1, 2, 2)  # [outputs and classes, before and after, intersection and union]
        occur = tables[:, :, 1].max(axis=1) > 0
        if occur.any():
            shares = tables[occur, :, 0] / np.maximum(tables[occur, :, 1], 1)
            before, after = shares.mean(axis=0).tolist()
        else:
            before = after = 1.0
        places = max(1.0, float(sums[-4]))
        return {
            "mean IoU": Figure(before, after),
            "right places": Figure(float(sums[-3] / places), float(sums[-2] / places)),
        }

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the share of equal positions of both models, per sample."""
        return np.asarray(rows[:, -1] / np.maximum(rows[:, -4], 1) + (rows[:, -4] == 0), np.float64)

    def _marks(self, array: Array) -> Array:
        if self.axis is not None:
            return np.asarray(array.argmax(self.axis))
        if array.dtype.kind == "f" and self.classes == 1:
            with np.errstate(invalid="ignore"):
                return (array > self.threshold).astype(np.int64)
        return array.astype(np.int64)

    def _truth(self, label: Array, marks: Array) -> Array:
        given = np.asarray(label)
        if given.size == marks.size and given.dtype.kind in "iub":
            return given.reshape(marks.shape).astype(np.int64)
        raise unreadable_labels(label, f"classes for {list(marks.shape)} places", "give an integer for each place")


@dataclasses.dataclass(frozen=True)
class _Map:
    """An output that is a map, with its axis of classes or threshold."""

    output: str
    strength: float
    reason: str
    axis: int | None = None
    classes: int = 1
    threshold: float = 0.5

    def is_like(self, other: _Map) -> bool:
        """Return whether both are marks of the same kind, which are read together; of maps of classes one is read."""
        same_marks = (self.strength, self.threshold, self.classes) == (other.strength, other.threshold, 1)
        return self is other or same_marks


def _recognise_map(output: OutputEvidence, evidence: Evidence) -> _Map | None:
    shape, name = output.shape, output.name
    named = bool(NAMED.search(name))
    if not shape or (OTHER.search(name) and not named and not evidence.named):
        return None
    if output.arrays and output.arrays[0].dtype.kind in "iub":
        return _recognise_classes(output, evidence, named)
    if not output.is_float:
        return None
    if len(shape) == 4:
        fits = [_like_an_input(sizes, evidence) for sizes in (shape[2:], shape[1:3])]
        axis = (-3 if shape[1] <= shape[3] else -1) if fits[0] == fits[1] else (-3 if fits[0] else -1)
        count, height, width = shape[axis], *(shape[2:] if axis == -3 else shape[1:3])
        dense = min(height, width) >= FEWEST and (evidence.named or named or _like_an_input((height, width), evidence))
        if dense and 2 <= count <= MOST_CLASSES:
            exclusive = output.made_by(Trait.DISTRIBUTION) or output.sums_to_one(axis)
            if not exclusive and output.made_by(Trait.LOGISTIC):
                return _marks(output, 0.5, 0.75 if named else 0.65)
            pictures = count == 3 and not exclusive and not named and not evidence.named
            if pictures:  # the output may be an RGB image
                return None
            reason = f"{name} {list(shape)} has a map for each of {count} classes"
            return _Map(name, 0.85 if named or exclusive else 0.7, reason, axis, count)
        if dense and count == 1:
            return _one_map(output, named or evidence.named)
        return None
    if len(shape) == 3 and max(shape[1:]) >= FEWEST:
        line = min(shape[1:]) == 1
        if line and (named or evidence.named or _like_a_length(max(shape[1:]), evidence)):
            return _one_map(output, named or evidence.named)
        marks = output.made_by(Trait.LOGISTIC) and not (output.sums_to_one(-1) or output.sums_to_one(-2))
        if min(shape[1:]) >= FEWEST and (marks or evidence.named):
            return _marks(output, 0.5, 0.6)
    return None


def _one_map(output: OutputEvidence, named: bool) -> _Map | None:
    if output.made_by(Trait.LOGISTIC) or (output.in_unit and named):
        return _marks(output, 0.5, 0.8)
    return _marks(output, 0.0, 0.75) if named else None


def _marks(output: OutputEvidence, threshold: float, strength: float) -> _Map:
    kind = "probabilities of their own, on from a half" if threshold else "logits, on above 0"
    reason = f"{output.name} {list(output.shape)} marks places: {kind}"
    return _Map(output.name, strength, reason, threshold=threshold)


def _recognise_classes(output: OutputEvidence, evidence: Evidence, named: bool) -> _Map | None:
    """Return the recognition of classes as integers [N, H, W]."""
    sizes = output.shape[-2:]
    values = output.flat
    small = bool(values.size) and values.min() >= 0 and values.max() < MOST_CLASSES
    if len(output.shape) < 3 or min(sizes) < FEWEST or not small:
        return None
    if not (named or evidence.named or _like_an_input(sizes, evidence)):
        return None
    classes = max(2, int(values.max()) + 1) if output.arrays[0].dtype.kind != "b" else 1
    reason = f"{output.name} {list(output.shape)} is the class of every place"
    return _Map(output.name, 0.8, reason, classes=classes)


def _like_an_input(sizes: Sequence[int], evidence: Evidence) -> bool:
    """Return whether a map has the size of an input image, or is 2, 4, 8 or 16 times smaller."""
    return any(
        any(
            abs(height - sizes[0] * scale) < scale and abs(width - sizes[1] * scale) < scale
            for scale in (1, 2, 4, 8, 16)
        )
        for height, width in evidence.images
    )


def _like_a_length(length: int, evidence: Evidence) -> bool:
    return any(length in getattr(value, "shape", ())[1:] for feeds in evidence.feeds[:1] for value in feeds.values())
