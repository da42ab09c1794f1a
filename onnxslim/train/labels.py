"""What labels are, and what a model that learns from them alone is compared by: classes, or numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Array
from onnxslim.data import Samples
from onnxslim.errors import DataError
from onnxslim.train.batches import LABELS
from onnxslim.train.losses import LossKind, LossTerm, logits

NO_CLASS = (-1, 255)
"""Integers that say that a decision does not count."""
AT_ONCE = 256
"""Samples that are read together."""


@dataclasses.dataclass(frozen=True)
class LabelSummary:
    """All labels of some samples in short."""

    classes: bool
    """Whether they are integers, which stand for classes; otherwise they are real numbers."""
    each: int
    """Numbers of each sample: 1, or one for each pixel."""
    lowest: float
    highest: float
    """The extremes of those that count."""
    variance: float
    counted: int
    """How many count."""


def read_labels(samples: Samples) -> LabelSummary:
    """Read all labels once.

    Raises:
        DataError: The samples have none, or some that are neither integers nor finite real numbers, or as many as there
            are not for each sample, or none that counts.
    """
    where = samples.source
    if not samples.labelled:
        raise no_labels(where)
    counted, total, square = 0, 0.0, 0.0
    lowest, highest = math.inf, -math.inf
    found: set[tuple[bool, int]] = set()
    for batch in samples.batches(AT_ONCE):
        labels = np.asarray(batch.labels)
        if labels.dtype.kind not in "iubf" or labels.size % batch.count:
            hint = "give integers for classes, real numbers for what is to be predicted as a number"
            raise DataError(f"labels of {labels.dtype.name} cannot be learned", where=where, hint=hint)
        classes = labels.dtype.kind != "f"
        found.add((classes, labels.size // batch.count))
        if not np.isfinite(labels).all():
            raise DataError("some labels are not finite", where=where, hint="leave out samples without a label")
        kept = (labels[~np.isin(labels, NO_CLASS)] if classes else labels).astype(np.float64)
        if kept.size:
            lowest, highest = min(lowest, float(kept.min())), max(highest, float(kept.max()))
            counted, total, square = counted + kept.size, total + float(kept.sum()), square + float((kept**2).sum())
    if len(found) != 1:
        raise DataError("labels are not of one kind", where=where, hint="give as many of one type for each sample")
    if not counted:
        raise DataError("no label is a class: all are -1 or 255", where=where, hint="give integers from 0 on")
    ((classes, each),) = found
    return LabelSummary(classes, each, lowest, highest, max(0.0, square / counted - (total / counted) ** 2), counted)


def no_labels(where: str) -> DataError:
    """Return the error that samples carry no labels."""
    hint = "add an array 'labels'; without labels a student learns from a model: onnxslim optimize -p distill"
    return DataError("the samples carry no labels", where=where, hint=hint)


def label_terms(
    student: ir.Graph, outputs: Mapping[str, Array], count: int, labels: LabelSummary, where: str
) -> list[LossTerm]:
    """Return the term that compares an output with labels: cross-entropy for classes, else squared differences.

    It is the first output of real numbers that fits: one score for each class, or as many numbers as labels.

    Args:
        student: The graph of the student.
        outputs: What it gives for `count` samples, by the name of the output.
        count: Samples of a batch.
        labels: What the labels are.
        where: The source of the samples, for messages.

    Raises:
        DataError: No output fits the labels, or a label is none of the classes.
    """
    real = {name: array for name, array in outputs.items() if array.dtype.kind == "f" and array.size}
    wanted = labels.each * count
    for output in student.outputs:
        array = real.get(output.name or "")
        if array is None:
            continue
        if not labels.classes:
            if array.size == wanted:
                return [LossTerm(LossKind.MSE, output.name or "", LABELS, variance=labels.variance or 1.0)]
            continue
        if array.ndim < 2:
            continue
        value, axis = logits(output, array.ndim)
        classes = array.shape[axis]
        if classes < 2 or array.size // classes != wanted:
            continue
        if not 0 <= labels.lowest <= labels.highest < classes:
            wrong = labels.lowest if labels.lowest < 0 else labels.highest
            what = f"a label is {wrong:.0f}, and {output.name!r} tells {classes} classes"
            hint = f"labels are integers from 0 to {classes - 1}; -1 and 255 do not count"
            raise DataError(what, where=where, hint=hint)
        return [LossTerm(LossKind.CROSS_ENTROPY, value, LABELS, axis=axis)]
    given = ", ".join(f"{name} {list(array.shape)}" for name, array in real.items()) or "no real numbers"
    kind = "classes, a score for each" if labels.classes else "numbers"
    hint = "integers are classes, and an output has a score for each; real numbers are compared with an output as large"
    raise DataError(
        f"no output fits labels that are {kind}, {labels.each} of each sample: {count} samples make {given}",
        where=where,
        hint=hint,
    )
