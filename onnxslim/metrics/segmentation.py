"""Segmentation: mean intersection over union of what is marked in every place, of each class."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.errors import DataError
from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.quality.metric import Array, Figure, Metric, Outputs, Recognition, Rows

FEWEST = 8
"""Places along an axis from which on an output is a map."""
MOST_CLASSES = 256

NAMED = re.compile(r"(?i)(seg|mask)")
OTHER = re.compile(r"(?i)(flow|depth|disp|heat|keypoint|normal|image|recon|denois|super|embed|feature|hidden|attn)")


@dataclasses.dataclass(frozen=True)
class Segmentation(Metric):
    """Mean IoU over the classes that occur, of all samples together; and the share of places that are right.

    Of one map a class (`axis`) the largest wins. Without such an axis each number is a mark of its own, on from
    `threshold`; what is on is then compared for each output, and what is off does not count.
    """

    outputs: tuple[str, ...]
    axis: int | None = None
    """Where the classes stand, counted from the end; None: each number is a mark of its own, or a class itself."""
    classes: int = 1
    """How many classes are counted; 1: only what is on."""
    threshold: float = 0.5

    name: ClassVar[str] = "segmentation"
    resamples: ClassVar[int] = 500

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric where outputs are maps of classes or of marks."""
        found = [one for output in evidence.outputs if (one := _recognise_map(output, evidence)) is not None]
        if not found:
            return None
        best = max(found, key=lambda one: one.strength)
        alike = [one for one in found if one.is_like(best)]
        metric = cls(tuple(one.output for one in alike), best.axis, best.classes, best.threshold)
        return Recognition(metric, best.strength, "; ".join(one.reason for one in alike))

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return for each output and class: shared and united places before, and after; then places, equal ones.

        The last columns: all places, those right before, right after, and alike in both.
        """
        counts: list[float] = []
        places = right = kept = alike = 0
        for name in self.outputs:
            before = self._marks(reference[name])
            after = None if candidate is None else self._marks(candidate[name])
            truth = before if label is None else self._truth(label, before)
            for number in range(self.classes):
                mark = 1 if self.classes == 1 else number
                wanted = truth == mark
                for given in (before, after):
                    here = np.zeros(wanted.shape, np.bool_) if given is None else given == mark
                    counts += [float((wanted & here).sum()), float((wanted | here).sum())]
            places += truth.size
            right += int((before == truth).sum())
            kept += 0 if after is None else int((after == truth).sum())
            alike += 0 if after is None else int((after == before).sum())
        return [*counts, float(places), float(right), float(kept), float(alike)]

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the mean IoU and the share of places that are right."""
        sums = rows.sum(axis=0)
        tables = sums[:-4].reshape(-1, 2, 2)  # [outputs and classes, before and after, shared and united]
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
        """Return per sample the share of places that both models mark alike."""
        return np.asarray(rows[:, -1] / np.maximum(rows[:, -4], 1) + (rows[:, -4] == 0), np.float64)

    def lost(self, labelled: bool) -> str:
        """Return what the loss is a loss of."""
        return "mean IoU" if labelled else "mean IoU with the original"

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
        raise DataError(
            f"labels of shape {list(given.shape)} and type {given.dtype} are no classes for {list(marks.shape)} places",
            where="labels",
            hint="give an integer for each place, or a metric of your own: --metric module:function",
        )


@dataclasses.dataclass(frozen=True)
class _Map:
    """An output that is a map, and how it is read."""

    output: str
    strength: float
    reason: str
    axis: int | None = None
    classes: int = 1
    threshold: float = 0.5

    def is_like(self, other: _Map) -> bool:
        """Whether both are marks of the same kind, so that they are read together; of maps of classes one is read."""
        alike = (self.strength, self.threshold, self.classes) == (other.strength, other.threshold, 1)
        return self is other or alike


def _recognise_map(output: OutputEvidence, evidence: Evidence) -> _Map | None:
    shape, name = output.shape, output.name
    told = bool(NAMED.search(name))
    if not shape or (OTHER.search(name) and not told and not evidence.named):
        return None
    if output.arrays and output.arrays[0].dtype.kind in "iub":
        return _recognise_classes(output, evidence, told)
    if not output.is_float:
        return None
    if len(shape) == 4:
        fits = [_like_an_input(sizes, evidence) for sizes in (shape[2:], shape[1:3])]
        axis = (-3 if shape[1] <= shape[3] else -1) if fits[0] == fits[1] else (-3 if fits[0] else -1)
        count, height, width = shape[axis], *(shape[2:] if axis == -3 else shape[1:3])
        dense = min(height, width) >= FEWEST and (evidence.named or told or _like_an_input((height, width), evidence))
        if dense and 2 <= count <= MOST_CLASSES:
            exclusive = output.made_by("Softmax", "LogSoftmax") or output.sums_to_one(axis)
            if not exclusive and output.made_by("Sigmoid"):
                return _marks(output, 0.5, 0.75 if told else 0.65)
            pictures = count == 3 and not exclusive and not told and not evidence.named
            if pictures:  # may be one just as well
                return None
            reason = f"{name} {list(shape)} has a map for each of {count} classes"
            return _Map(name, 0.85 if told or exclusive else 0.7, reason, axis, count)
        if dense and count == 1:
            return _one_map(output, told or evidence.named)
        return None
    if len(shape) == 3 and max(shape[1:]) >= FEWEST:
        line = min(shape[1:]) == 1
        if line and (told or evidence.named or _like_a_length(max(shape[1:]), evidence)):
            return _one_map(output, told or evidence.named)
        marks = output.made_by("Sigmoid") and not (output.sums_to_one(-1) or output.sums_to_one(-2))
        if min(shape[1:]) >= FEWEST and (marks or evidence.named):
            return _marks(output, 0.5, 0.6)
    return None


def _one_map(output: OutputEvidence, told: bool) -> _Map | None:
    if output.made_by("Sigmoid") or (output.in_unit and told):
        return _marks(output, 0.5, 0.8)
    return _marks(output, 0.0, 0.75) if told else None


def _marks(output: OutputEvidence, threshold: float, strength: float) -> _Map:
    kind = "probabilities of their own, on from a half" if threshold else "logits, on above 0"
    reason = f"{output.name} {list(output.shape)} marks places: {kind}"
    return _Map(output.name, strength, reason, threshold=threshold)


def _recognise_classes(output: OutputEvidence, evidence: Evidence, told: bool) -> _Map | None:
    """Recognise [N, H, W] of integers: the classes themselves."""
    sizes = output.shape[-2:]
    values = output.flat
    small = bool(values.size) and values.min() >= 0 and values.max() < MOST_CLASSES
    if len(output.shape) < 3 or min(sizes) < FEWEST or not small:
        return None
    if not (told or evidence.named or _like_an_input(sizes, evidence)):
        return None
    classes = max(2, int(values.max()) + 1) if output.arrays[0].dtype.kind != "b" else 1
    reason = f"{output.name} {list(output.shape)} is the class of every place"
    return _Map(output.name, 0.8, reason, classes=classes)


def _like_an_input(sizes: Sequence[int], evidence: Evidence) -> bool:
    """Whether a map is as high and wide as an image that goes in, or 2, 4, 8 or 16 times less."""
    return any(
        any(abs(height - sizes[0] * by) < by and abs(width - sizes[1] * by) < by for by in (1, 2, 4, 8, 16))
        for height, width in evidence.images
    )


def _like_a_length(length: int, evidence: Evidence) -> bool:
    return any(length in np.shape(value)[1:] for value in evidence.feeds[0].values()) if evidence.feeds else False
