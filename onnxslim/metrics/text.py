"""Text: whether sequences of characters or labels are the same, and how many edits apart they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.errors import DataError
from onnxslim.quality.evidence import Evidence, OutputEvidence
from onnxslim.quality.metric import Array, Figure, Metric, Outputs, Recognition, Rows

FEWEST_STEPS = 4
FEWEST_CHARACTERS = 11
"""Scores of a step from which on they may be of characters: ten digits and the blank."""
BLANK_SHARE = 0.2
"""Share of steps that the blank wins at least, in scores that are not normalised, for them to be CTC's."""


@dataclasses.dataclass(frozen=True)
class Text(Metric):
    """Sequences that are the same, steps that are the same, and edits for each character.

    With a blank (CTC, Graves et al. 2006) steps of the same character are one, and blanks are left out.
    """

    output: str
    blank: int | None = None
    """The class that stands for no character; None: every step is one label (tags, diacritics)."""
    scores: bool = True
    """The output has scores along its last axis; else it holds the labels themselves."""

    name: ClassVar[str] = "text"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"edits per character"})

    @classmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric where an output holds a label, or scores of labels, for each step of a sequence."""
        found = [one for output in evidence.outputs if (one := _recognise_steps(output, evidence)) is not None]
        return max(found, key=lambda one: one.strength, default=None)

    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return: same before, same after, edits before, edits after, length of the truth, share of equal steps."""
        steps = self._steps(reference[self.output])
        given = None if candidate is None else self._steps(candidate[self.output])
        before = self._collapsed(steps)
        truth = before if label is None else _true_labels(label)
        edits = float(edit_distance(before, truth))
        if given is None:
            return [float(edits == 0), 0.0, edits, float(max(len(truth), 1)), float(len(truth)), 0.0]
        after = self._collapsed(given)
        changed = float(edit_distance(after, truth))
        alike = float((steps == given).mean()) if steps.size else 1.0
        return [float(edits == 0), float(changed == 0), edits, changed, float(len(truth)), alike]

    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return equal sequences and edits per character (of labels that stand alone: equal steps first)."""
        means = rows.mean(axis=0)
        length = max(float(rows[:, 4].sum()), 1.0)
        same = Figure(float(means[0]), float(means[1]))
        edits = Figure(float(rows[:, 2].sum()) / length, float(rows[:, 3].sum()) / length)
        return {"equal sequences": same, "edits per character": edits}

    def loss(self, rows: Rows) -> float:
        """Return the fall of equal sequences of characters; of labels that stand alone the rise of edits for each."""
        figures = self.figures(rows)
        if self.blank is None:
            edits = figures["edits per character"]
            return edits.after - edits.before
        same = figures["equal sequences"]
        return same.before - same.after

    def is_share(self, figure: str, rows: Rows) -> bool:
        """Equal sequences are."""
        return figure == "equal sequences"

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return per sample the share of steps at which both models give the same."""
        return rows[:, 5]

    def lost(self, labelled: bool) -> str:
        """Return what the loss is a loss of."""
        what = "the sequences" if self.blank is not None else "the labels of the steps"
        return what if labelled else f"{what} that the original gives"

    def _steps(self, array: Array) -> Array:
        steps = array.reshape(-1, array.shape[-1]).argmax(axis=-1) if self.scores else array.reshape(-1)
        return np.asarray(steps)

    def _collapsed(self, steps: Array) -> Array:
        if self.blank is None or not len(steps):
            return steps
        first = np.concatenate([[True], steps[1:] != steps[:-1]])
        return np.asarray(steps[first & (steps != self.blank)])


def edit_distance(one: Array, other: Array) -> int:
    """Return how many insertions, deletions and replacements make one sequence of the other (Levenshtein)."""
    if len(one) == len(other) and bool((one == other).all()):
        return 0
    row = np.arange(len(other) + 1)
    for index, item in enumerate(one, 1):
        best = np.minimum(row[:-1] + (other != item), row[1:] + 1)
        best = np.concatenate([[index], best])
        # insertions along the row: best[j] = min over i <= j of best[i] + (j - i)
        row = np.minimum.accumulate(best - np.arange(len(best))) + np.arange(len(best))
    return int(row[-1])


def _true_labels(label: Array) -> Array:
    given = np.asarray(label).reshape(-1)
    if given.dtype.kind not in "iu":
        raise DataError(
            f"labels of type {given.dtype} are no sequence of class numbers",
            where="labels",
            hint="give integers, -1 behind the end of the text; or --metric module:function",
        )
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
    if output.made_by("LayerNormalization", "LSTM", "GRU", "RNN") and not evidence.named:
        return None
    if evidence.tokens is not None:
        if classes < 2:
            return None
        reason = f"{name} {list(shape)} has scores of {classes} labels for each token"
        return Recognition(Text(name), 0.7 if output.made_by("Softmax", "LogSoftmax") else 0.6, reason)
    if steps < FEWEST_STEPS or classes < FEWEST_CHARACTERS:
        return None
    best = np.concatenate([array.reshape(-1, classes).argmax(axis=-1) for array in output.arrays])
    shares = {blank: float((best == blank).mean()) for blank in (0, classes - 1)}
    blank = max(shares, key=lambda each: shares[each])
    normal = output.made_by("Softmax", "LogSoftmax") or output.sums_to_one(-1)
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
    """Recognise [N, T] of integers that are no input handed on."""
    if len(output.shape) != 2 or output.shape[1] < 2 or not output.ops or output.made_by("Constant"):
        return None
    if not (evidence.images or evidence.tokens or evidence.named):
        return None
    reason = f"{output.name} {list(output.shape)} is the label of each step"
    return Recognition(Text(output.name, scores=False), 0.6, reason)


def _are_labels(output: OutputEvidence) -> bool:
    """Whether floats are whole numbers that were made by choosing."""
    values = output.flat
    return output.made_by("ArgMax") and bool(values.size) and bool((values == values.round()).all())
