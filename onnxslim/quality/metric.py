"""What a metric is, what it is shown to be chosen by, and what it answers.

A metric keeps one row of numbers for each sample: how the reference and the candidate do against the truth, which is
the label, or without labels what the reference gives. Everything else (figures, loss, intervals) is computed from such
rows, so that rows can be drawn anew (bootstrap) and what is paired within a sample stays paired.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.quality.evidence import Evidence
from onnxslim.runtime.statistics import Interval, bootstrap

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.float64]
"""What is kept of samples, shape [samples, k]; the metric knows what its k columns are."""
Outputs = Mapping[str, Any]
"""Outputs by name: arrays, or lists and dicts for sequences and maps."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a task, of both models, against the truth."""

    before: float
    """Of the reference. Without labels it is perfect by definition."""
    after: float
    """Of the candidate."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A part of an output that holds a quantity of its own, with a scale of its own: boxes, scores."""

    output: str
    label: str
    """What it holds, in a word or two."""
    axis: int
    """The axis that is cut, counted from the end (-1 is the last)."""
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Metric(abc.ABC):
    """How good a model is at one task.

    A subclass is a frozen dataclass whose fields say which outputs, and which axes of them, it reads; `recognise` fills
    them in. It lives in ``onnxslim.metrics.<name>`` and is found there. What must be written: `recognise`, `row`,
    `figures`; and `loss` where it is not the fall of the first figure.
    """

    name: ClassVar[str]
    """The word after ``--metric``; also the name of the module."""
    units: ClassVar[Mapping[str, str]] = {}
    """Units of those figures that are no shares: dB, or nothing."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    """Figures that fall where a model gets better."""
    same_shapes: ClassVar[bool] = True
    """Whether outputs of other shapes than the reference's cannot be read. Detectors give as many boxes as they see."""
    harmful: ClassVar[float] = 0.01
    """What one pass may cost without a warning."""
    resamples: ClassVar[int] = 1000
    """How often rows are drawn anew for an interval; fewer where figures take long to compute."""
    reads_labels: ClassVar[bool] = True
    """Whether labels tell it anything; else the truth is what the reference gives in any case."""
    needs_labels: ClassVar[bool] = False
    """Whether it can do nothing without labels."""

    @classmethod
    @abc.abstractmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric, bound to the outputs of a model, or None where it does not fit them.

        Must be cautious: a metric that reads numbers as what they are not is worse than none. Where the user named the
        metric (`evidence.named`) all that must fit is the shape.
        """

    @abc.abstractmethod
    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return what is kept of one sample: k numbers, k being the same for all samples of a run.

        Args:
            reference: The outputs of the original for this sample, with a first axis of length 1 where the model has
                one for samples.
            candidate: Those of the candidate. None: they cannot be read (NaN where the reference is finite, another
                shape, another type), and everything is lost.
            label: The sample's label; None: what the reference gives is the truth.

        Raises:
            DataError: The label is none that this metric understands.
        """

    def gather(self, rows: Rows) -> Rows:
        """Return the rows of all samples as figures are computed from, shape [samples, m]: here they are as they were.

        For what hangs on all samples at once, such as which of the others is nearest: it is found once, here, and not
        for every draw of the rows.
        """
        return rows

    @abc.abstractmethod
    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the task's figures by name (top-1, mAP), the most telling one first; each share from 0 to 1."""

    def loss(self, rows: Rows) -> float:
        """Return how much was lost: a fraction, what ``--max-drop`` bounds; below 0 where the candidate does better."""
        first = next(iter(self.figures(rows).values()))
        return first.before - first.after

    def lost(self, labelled: bool) -> str:
        """Return what `loss` is a loss of, as it reads in "3 % of ... would be lost"."""
        return f"{self.name} quality" if labelled else f"{self.name} agreement with the original"

    def interval(self, rows: Rows, generator: np.random.Generator) -> Interval:
        """Return the loss with its 95 % interval: a bootstrap over the samples, unless a metric knows better."""
        return bootstrap(rows, self.loss, generator, self.resamples)

    def is_share(self, figure: str, rows: Rows) -> bool:
        """Whether a figure is the mean of one share a sample: then its interval is Wilson's, not a bootstrap."""
        return False

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64] | None:
        """Return per sample the share of decisions that both models make alike, shape [samples].

        None where the metric knows of no decisions.
        """
        return None

    def slices(self) -> tuple[Slice, ...]:
        """Return the parts of outputs whose scales differ, each to be compared for itself."""
        return ()

    def rows(self, reference: Outputs, candidate: Outputs, labels: Array | None, count: int) -> Rows:
        """Return the rows of one run of `count` samples, shape [count, k], by `row`.

        Where the outputs do not tell the samples apart the run counts as one sample, shape [1, k].
        """
        found = []
        for index, (wanted, given) in enumerate(by_sample(reference, candidate, count)):
            label = None if labels is None else labels[index] if len(labels) == count else labels
            readable = all(
                is_readable(value, given.get(name), same_shape=self.same_shapes) for name, value in wanted.items()
            )
            found.append(self.row(wanted, given if readable else None, label))
        return np.asarray(found, np.float64)


@dataclasses.dataclass(frozen=True)
class Recognition:
    """That a metric fits the outputs of a model."""

    metric: Metric
    strength: float
    """How sure that is, from 0 (nothing speaks against it) to 1 (nothing else can be meant). The strongest is taken."""
    reason: str
    """What it was recognised by, in words: ``logits [N, 10] are scores of 10 classes``."""


def as_numbers(array: Array) -> npt.NDArray[np.float64]:
    """Return numbers as float64 of which squares can be summed: NaN and infinities are 0, the rest below 1e100."""
    return np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(-1e100, 1e100)


def by_sample(reference: Outputs, candidate: Outputs, count: int) -> Iterator[tuple[Outputs, Outputs]]:
    """Yield the outputs of each sample of a run, or of the whole run where they do not tell the samples apart."""
    axes = {name: sample_axis(value, count) for name, value in reference.items()}
    fits = all(axis is not None and sample_axis(candidate.get(name), count) == axis for name, axis in axes.items())
    if count == 1 or not fits:
        yield reference, candidate
        return
    for index in range(count):
        one, other = (
            {name: _take(side[name], axis or 0, index) for name, axis in axes.items()}
            for side in (reference, candidate)
        )
        yield one, other


def sample_axis(value: Any, count: int) -> int | None:
    """Return along which axis an output of a run holds its `count` samples: the first, the second ([time, N, ...])."""
    if isinstance(value, list):
        return 0 if len(value) == count else None
    shape = np.shape(value) if isinstance(value, np.ndarray) else ()
    if shape[:1] == (count,):
        return 0
    return 1 if len(shape) >= 3 and shape[1] == count else None


def _take(value: Any, axis: int, index: int) -> Any:
    if isinstance(value, list):
        return value[index : index + 1]
    return value[index : index + 1] if axis == 0 else value[:, index : index + 1]


def is_readable(reference: Any, candidate: Any, *, same_shape: bool = True) -> bool:
    """Whether a candidate's output can be read in place of the reference's.

    It must be of the same kind and rank (and shape, unless said otherwise), and not be NaN or infinite where the
    reference is finite.
    """
    if not isinstance(reference, np.ndarray):
        return type(reference) is type(candidate)
    if not isinstance(candidate, np.ndarray) or reference.dtype.kind != candidate.dtype.kind:
        return False
    if reference.ndim != candidate.ndim or (same_shape and reference.shape != candidate.shape):
        return False
    if reference.dtype.kind not in "fc":
        return True
    broken = ~np.isfinite(candidate)
    if reference.shape != candidate.shape:
        return not broken.any() or not np.isfinite(reference).all()
    unlike = ~((candidate == reference) | (np.isnan(candidate) & np.isnan(reference)))
    return not bool((broken & unlike).any())
