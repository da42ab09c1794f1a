"""The interface of metrics.

A metric keeps one row of numbers per sample, which compares the reference and the candidate with the truth: the label,
or without labels the output of the reference. Figures, loss and intervals are computed from the rows, so rows can be
resampled (bootstrap), and values paired within a sample stay paired.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array, Floats
from onnxslim.errors import DataError
from onnxslim.quality.evidence import Evidence
from onnxslim.runtime.statistics import Interval, bootstrap

Rows = Floats
"""Rows of samples, shape [samples, k]; the metric defines the k columns."""
Outputs = Mapping[str, Any]
"""Outputs by name: arrays, or lists and dicts for sequences and maps."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the task for both models, against the truth."""

    before: float
    """Figure of the reference, which is perfect by definition without labels."""
    after: float
    """Figure of the candidate."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """A part of an output with its own quantity and scale: boxes, scores."""

    output: str
    label: str
    """Name of the quantity."""
    axis: int
    """The sliced axis, counted from the end (-1 is the last)."""
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Metric(abc.ABC):
    """The quality of models at one task.

    A subclass is a frozen dataclass whose fields are the outputs and axes that it reads, which `recognise` determines.
    It must define `recognise`, `row` and `figures`, and `loss` if that is not the fall of the first figure. It
    is found by its entry point ``<name>`` in the group ``onnxslim.metrics``.
    """

    name: ClassVar[str]
    """Name for ``--metric``, and of the entry point."""
    units: ClassVar[Mapping[str, str]] = {}
    """Units of the figures that are not shares: dB, or empty."""
    same_shapes: ClassVar[bool] = True
    """Whether outputs must have the shapes of the reference; detectors give varying numbers of boxes."""
    harmful: ClassVar[float] = 0.01
    """Loss of one pass above which there is a warning."""
    resamples: ClassVar[int] = 1000
    """Number of bootstrap resamples; fewer for figures that are slow to compute."""
    reads_labels: ClassVar[bool] = True
    """Whether the metric uses labels; otherwise the output of the reference is always the truth."""
    needs_labels: ClassVar[bool] = False
    """Whether the metric requires labels."""
    shares: ClassVar[frozenset[str]] = frozenset()
    """Figures that are the mean of one share per sample, so that their intervals are Wilson's."""
    losses: ClassVar[tuple[str, str] | None] = None
    """The lost quantity with labels, and without them; None: the name of the metric says it."""

    @classmethod
    @abc.abstractmethod
    def recognise(cls, evidence: Evidence) -> Recognition | None:
        """Return this metric bound to the outputs of a model, or None if it does not fit.

        It must be cautious: misreading the numbers is worse than returning None. If the user named the metric
        (`evidence.named`), only shapes must fit.
        """

    @abc.abstractmethod
    def row(self, reference: Outputs, candidate: Outputs | None, label: Array | None) -> Sequence[float]:
        """Return the row of one sample: k numbers, with the same k for all samples.

        Args:
            reference: Outputs of the original for this sample, with a first axis of length 1 if the model has a batch
                axis.
            candidate: Outputs of the candidate. None: they cannot be read (NaN where the reference is finite, another
                shape, another type), and everything is lost.
            label: Label of the sample; None: the output of the reference is the truth.

        Raises:
            DataError: The metric cannot read the label.
        """

    def gather(self, rows: Rows) -> Rows:
        """Return the rows that figures are computed from, shape [samples, m]; by default `rows` unchanged.

        It computes what depends on all samples together, such as nearest neighbours, once instead of for every
        resample.
        """
        return rows

    @abc.abstractmethod
    def figures(self, rows: Rows) -> dict[str, Figure]:
        """Return the figures of the task by name (top-1, mAP), the most important first; shares from 0 to 1."""

    def loss(self, rows: Rows) -> float:
        """Return the loss as a fraction, which ``--max-drop`` bounds; below 0 if the candidate is better."""
        first = next(iter(self.figures(rows).values()))
        return first.before - first.after

    def lost(self, labelled: bool) -> str:
        """Return the name of the lost quantity, as in "3 % of ... would be lost"."""
        of_truth, of_original = self.losses or (f"{self.name} quality", f"{self.name} agreement with the original")
        return of_truth if labelled else of_original

    def interval(self, rows: Rows, generator: np.random.Generator) -> Interval:
        """Return the loss with its 95 % interval, by default a bootstrap over the samples."""
        return bootstrap(rows, self.loss, generator, self.resamples)

    def is_share(self, figure: str, rows: Rows) -> bool:
        """Return whether a figure is the mean of one share per sample, so that its interval is Wilson's."""
        return figure in self.shares

    def agreement(self, rows: Rows) -> npt.NDArray[np.float64] | None:
        """Return the share of equal decisions of both models, shape [samples]; None if there are no decisions."""
        return None

    def slices(self) -> tuple[Slice, ...]:
        """Return the parts of outputs with different scales, which are compared separately."""
        return ()

    def rows(self, reference: Outputs, candidate: Outputs, labels: Array | None, count: int) -> Rows:
        """Return the rows of one run of `count` samples, shape [count, k].

        If the outputs have no sample axis, the run counts as one sample, shape [1, k].
        """
        found = []
        for index, (expected, actual) in enumerate(by_sample(reference, candidate, count)):
            label = None if labels is None else labels[index] if len(labels) == count else labels
            readable = all(
                is_readable(value, actual.get(name), same_shape=self.same_shapes) for name, value in expected.items()
            )
            found.append(self.row(expected, actual if readable else None, label))
        return np.asarray(found, np.float64)


@dataclasses.dataclass(frozen=True)
class Recognition:
    """A metric bound to the outputs of a model, with strength and reason."""

    metric: Metric
    strength: float
    """Certainty, from 0 (not excluded) to 1 (certain). The strongest recognition is chosen."""
    reason: str
    """Reason in words: ``logits [N, 10] are scores of 10 classes``."""


def as_numbers(array: Array) -> npt.NDArray[np.float64]:
    """Return numbers as float64 whose squares can be summed: NaN and infinity become 0, others at most 1e100."""
    return np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(-1e100, 1e100)


def unreadable_labels(label: Any, what: str, hint: str) -> DataError:
    """Return the error that labels are no `what`."""
    given = np.asarray(label)
    return DataError(
        f"labels of shape {list(given.shape)} and type {given.dtype} are no {what}",
        where="labels",
        hint=f"{hint}, or a metric of your own: --metric module:function",
    )


def strongest(found: Iterable[Recognition | None]) -> Recognition | None:
    """Return the recognition of the greatest strength, the first of equals; None if there is none."""
    return max(filter(None, found), key=lambda recognition: recognition.strength, default=None)


def by_sample(reference: Outputs, candidate: Outputs, count: int) -> Iterator[tuple[Outputs, Outputs]]:
    """Yield the outputs of each sample of a run, or of the whole run if they have no sample axis."""
    axes = {name: sample_axis(value, count) for name, value in reference.items()}
    fits = all(axis is not None and sample_axis(candidate.get(name), count) == axis for name, axis in axes.items())
    if count == 1 or not fits:
        yield reference, candidate
        return
    for index in range(count):
        expected, actual = (
            {name: _take(side[name], axis or 0, index) for name, axis in axes.items()}
            for side in (reference, candidate)
        )
        yield expected, actual


def sample_axis(value: Any, count: int) -> int | None:
    """Return the axis of the `count` samples in an output: 0, or 1 for [time, N, ...]; None if there is none."""
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
    """Return whether a candidate's output can be read in place of the reference's.

    It must have the same kind and rank (and shape, if `same_shape`), and must not be NaN or infinite where the
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
