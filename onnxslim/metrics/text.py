"""Text: equality and edit distance of sequences of characters or labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array
from onnxslim.ops.traits import Trait
from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.quality.metric import Figure, Metric, Outputs, Recognition, Rows, strongest, unreadable_labels

FEWEST_STEPS = 4
FEWEST_CHARACTERS = 11
"""Minimum of scores per step of characters: ten digits and the blank."""
BLANK_SHARE = 0.2
"""Minimum share of steps that the blank wins in CTC scores that are not normalized."""


@dataclasses.dataclass(frozen=True)
class Text(Metric):
    """Equal sequences, equal steps, and edits per character.

    With a blank (CTC, Graves et al. 2006), repeated steps are merged and blanks removed.
    """

    output: str
    blank: int | None = None
    """Class of the blank; None: every step is a label of its own (tags, diacritics)."""
    scores: bool = True
    """Whether the output has scores along its last axis; otherwise it holds labels."""

    name: ClassVar[str] = "text"
    shares: ClassVar[frozenset[str]] = frozenset({"equal sequences"})

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric if an output holds labels, or scores of labels, for the steps of a sequence."""
        return strongest(_recognise_steps(output, evidence) for output in evidence.outputs)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the row: equal before, after, edits before, after, length of the truth, share of equal steps."""
        steps = self._steps(reference[self.output])
        candidate_steps = None if candidate is None else self._steps(candidate[self.output])
        before = self._collapsed(steps)
        truth = before if label is None else _true_labels(label)
        edits = float(edit_distance(before, truth))
        if candidate_steps is None:
            return [float(edits == 0), 0.0, edits, float(max(len(truth), 1)), float(len(truth)), 0.0]
        after = self._collapsed(candidate_steps)
        changed = float(edit_distance(after, truth))
        equal = float((steps == candidate_steps).mean()) if steps.size else 1.0
        return [float(edits == 0), float(changed == 0), edits, changed, float(len(truth)), equal]

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return equal sequences, and edits per character."""
        means = rows.mean(axis=0)
        length = max(float(rows[:, 4].sum()), 1.0)
        same = Figure(float(means[0]), float(means[1]))
        edits = Figure(float(rows[:, 2].sum()) / length, float(rows[:, 3].sum()) / length)
        return {"equal sequences": same, "edits per character": edits}

    def loss(self, rows: Rows) -> float:
        """Return the fall of equal sequences; for labels of single steps the rise of edits."""
        figures = self.figures(rows)
        if self.blank is None:
            edits = figures["edits per character"]
            return edits.after - edits.before
        same = figures["equal sequences"]
        return same.before - same.after

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return the share of equal steps of both models, per sample."""
        return rows[:, 5]

    def lost(self, labelled: bool) -> str:
        """Return the name of the lost quantity."""
        quantity = "the sequences" if self.blank is not None else "the labels of the steps"
        return quantity if labelled else f"{quantity} that the original gives"

    def _steps(self, array: Array) -> Array:
        steps = array.reshape(-1, array.shape[-1]).argmax(axis=-1) if self.scores else array.reshape(-1)
        return np.asarray(steps)

    def _collapsed(self, steps: Array) -> Array:
        if self.blank is None or not len(steps):
            return steps
        first = np.concatenate([[True], steps[1:] != steps[:-1]])
        return np.asarray(steps[first & (steps != self.blank)])


def edit_distance(left: Array, right: Array) -> int:
    """Return the number of insertions, deletions and replacements from one sequence to the other (Levenshtein)."""
    if len(left) == len(right) and bool((left == right).all()):
        return 0
    row = np.arange(len(right) + 1)
    for index, item in enumerate(left, 1):
        best = np.minimum(row[:-1] + (right != item), row[1:] + 1)
        best = np.concatenate([[index], best])
        # insertions along the row: best[j] = min over i <= j of best[i] + (j - i)
        row = np.minimum.accumulate(best - np.arange(len(best))) + np.arange(len(best))
    return int(row[-1])


def _true_labels(label: Array) -> Array:
    given = np.asarray(label).reshape(-1)
    if given.dtype.kind not in "iu":
        raise unreadable_labels(label, "sequence of class numbers", "give integers, -1 behind the end of the text")
    return given[given >= 0]


def _recognise_steps(output: OutputEvidence, evidence: Evidence) -> Recognition | None:
    shape, name = output.shape, output.name
    if not shape or not output.arrays:
        return None
    if output.arrays[0].dtype.kind in "iu" or (len(shape) == 2 and output.is_float and _are_labels(output)):
        return _recognise_labels(output, evidence)
    if not output.is_float or len(shape) != 3 or 1 not in shape[:2]:
        return None
    steps, classes = max(shape[:2]), shape[2]
    if output.made_by(Trait.LAYER_NORMALIZATION, Trait.RECURRENT) and not evidence.named:
        return None
    if evidence.tokens is not None:
        if classes < 2:
            return None
        reason = f"{name} {list(shape)} has scores of {classes} labels for each token"
        return Recognition(Text(name), 0.7 if output.made_by(Trait.DISTRIBUTION) else 0.6, reason)
    if steps < FEWEST_STEPS or classes < FEWEST_CHARACTERS:
        return None
    best = np.concatenate([array.reshape(-1, classes).argmax(axis=-1) for array in output.arrays])
    shares = {blank: float((best == blank).mean()) for blank in (0, classes - 1)}
    blank = max(shares, key=lambda candidate: shares[candidate])
    normal = output.made_by(Trait.DISTRIBUTION) or output.sums_to_one(-1)
    if not (evidence.named or normal or shares[blank] >= BLANK_SHARE):
        return None
    if output.in_unit and not normal and not evidence.named:
        return None  # independent probabilities
    reason = (
        f"{name} {list(shape)} has scores of {classes} characters for each of {steps} steps, {blank} is the blank "
        f"({100 * shares[blank]:.0f} % of the steps)"
    )
    return Recognition(Text(name, blank), 0.8, reason)


def _recognise_labels(output: OutputEvidence, evidence: Evidence) -> Recognition | None:
    """Return the recognition of labels [N, T] that are not just an input passed on."""
    if len(output.shape) != 2 or output.shape[1] < 2 or not output.ops or output.is_stored:
        return None
    if not (evidence.images or evidence.tokens or evidence.named):
        return None
    reason = f"{output.name} {list(output.shape)} is the label of each step"
    return Recognition(Text(output.name, scores=False), 0.6, reason)


def _are_labels(output: OutputEvidence) -> bool:
    """Return whether floats are integers computed by an ArgMax."""
    values = output.flat
    return output.made_by(Trait.LARGEST) and bool(values.size) and bool((values == values.round()).all())
