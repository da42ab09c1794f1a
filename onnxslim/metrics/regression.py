"""Regression: R2 and relative error."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from onnxslim.arrays import Array
from onnxslim.ops.traits import Trait
from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows, as_numbers, unreadable_labels

MOST_COLUMNS = 64
"""Limit of the numbers per sample with separate means; more numbers share one mean."""
SUMS = 5

NAMED = re.compile(
    r"(?i)(regress|landmark|keypoint|pose|depth|flow|coord|angle|age|disp|heat|normal|recon|denois|super|forecast|price)"
)


@dataclasses.dataclass(frozen=True)
class Regression(Metric):
    """R2 and relative error of each output. The loss is the fall of R2 of the output that loses most.

    R2 is one minus the squared error over the variance of the truth; relative error is the root of the squared error
    over the squares of the truth. Without labels the output of the original is the truth.
    """

    outputs: tuple[str, ...]
    columns: tuple[int, ...]
    """Number of values per sample with separate means, for each output."""

    name: ClassVar[str] = "regression"
    losses: ClassVar[tuple[str, str]] = "R2", "R2 with the original"

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric if outputs are quantities: one number per sample, by their name, or images from images."""
        found = [
            (output, quantity) for output in evidence.outputs if (quantity := _quantity(output, evidence)) is not None
        ]
        if not found:
            return None
        names = tuple(output.name for output, _ in found)
        columns = tuple(_columns(output) for output, _ in found)
        reason = "; ".join(f"{output.name} {list(output.shape)} {text}" for output, (_, text) in found)
        return Recognition(cls(names, columns), max(strength for _, (strength, _) in found), reason)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return for each output and column: count, sum, sum of squares, squared errors before and after.

        A candidate that cannot be read counts as zeros.
        """
        found: list[float] = []
        for name, columns in zip(self.outputs, self.columns, strict=True):
            before = _table(reference[name], columns)
            after = np.zeros_like(before) if candidate is None else _table(candidate[name], columns)
            truth = before if label is None else _truth(label, before, len(self.outputs))
            errors = [((side - truth) ** 2).sum(axis=0) for side in (before, after)]
            if candidate is None:
                errors[1] = np.maximum(errors[1], 1e-30)
            count = np.full(columns, float(len(truth)))
            found += np.stack([count, truth.sum(axis=0), (truth**2).sum(axis=0), *errors], axis=1).reshape(-1).tolist()
        return found

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return R2 and relative error of each output, the worst output first."""
        found: list[tuple[str, Figure, Figure]] = []
        start = 0
        for name, columns in zip(self.outputs, self.columns, strict=True):
            end = start + SUMS * columns
            found.append((name, *_explained(rows[:, start:end].sum(axis=0).reshape(columns, SUMS))))
            start = end
        found.sort(key=lambda entry: entry[1].after - entry[1].before)
        single = len(found) == 1
        figures: dict[str, Figure] = {}
        for name, explained, error in found:
            figures["R2" if single else f"R2 of {name}"] = explained
            figures["relative error" if single else f"relative error of {name}"] = error
        return figures


def _explained(sums: Rows) -> tuple[Figure, Figure]:
    """Return R2 and relative error from sums of shape [columns, 5]."""
    count, total, squares, *errors = sums.T
    variance = float(np.maximum(squares - total**2 / np.maximum(count, 1), 0).sum())
    energy = float(squares.sum())
    if variance <= 1e-12 * energy:
        variance = energy  # a single sample, or equal samples: relative to the values themselves
    shares = [_share(float(error.sum()), variance) for error in errors]
    return (
        Figure(*(max(-1.0, 1 - share) for share in shares)),
        Figure(*(math.sqrt(min(1e6, _share(float(error.sum()), energy))) for error in errors)),
    )


def _share(error: float, total: float) -> float:
    if error <= 0:
        return 0.0
    return error / total if total > 0 else 1.0


def _columns(output: OutputEvidence) -> int:
    size = int(np.prod(output.shape[1:])) if len(output.shape) > 1 else 1
    return size if 1 <= size <= MOST_COLUMNS else 1


def _table(array: Array, columns: int) -> Rows:
    values = as_numbers(array)
    return values.reshape(-1, columns) if values.size % columns == 0 else values.reshape(-1, 1)


def _truth(label: Array, before: Rows, outputs: int) -> Rows:
    given = np.asarray(label)
    if given.dtype.kind in "iuf" and given.size == before.size and outputs == 1:
        return as_numbers(given).reshape(before.shape)
    what = f"{before.size} numbers of {outputs} output(s)"
    raise unreadable_labels(label, what, "give a number for each that the model gives")


def _quantity(output: OutputEvidence, evidence: Evidence) -> tuple[float, str] | None:
    shape = output.shape
    if not output.is_float or output.made_by(Trait.DISTRIBUTION, Trait.RECURRENT) or not output.flat.size:
        return None
    if evidence.named:
        return 0.5, "was asked for"
    named = NAMED.search(output.name)
    single = len(shape) <= 1 or int(np.prod(shape[1:])) == 1
    if named and not output.sums_to_one(-1):
        return 0.75, f"is named for a quantity ({named[0]})"
    if single and not output.made_by(Trait.LOGISTIC) and not output.in_unit:
        return 0.6, "is one number for each sample, and no probability"
    if single and not output.made_by(Trait.LOGISTIC):
        return 0.3, "is one number for each sample"
    if len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= 8 and not output.made_by(Trait.LOGISTIC):
        sizes = {image[0] / shape[2] for image in evidence.images if image[0] * shape[3] == image[1] * shape[2]}
        if any(scale <= 1 or scale == 2 for scale in sizes):
            return 0.5, "is an image that is made of an image"
    return None
