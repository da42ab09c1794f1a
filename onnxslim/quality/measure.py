"""Measures the quality of a model: its metric's figures and loss, and the fidelity of each output, in one go."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from onnxslim.data import Samples
from onnxslim.errors import DataError
from onnxslim.quality.custom import guarded
from onnxslim.quality.fidelity import Fidelity, add_run, start_tallies, summarize
from onnxslim.quality.metric import Metric, Recognition, Rows
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Interval, wilson

Draws = npt.NDArray[np.float64]
"""A figure of each bootstrap sample, shape [resamples]."""


@dataclasses.dataclass(frozen=True)
class MeasuredFigure:
    """One figure of the task, of both models, with 95 % intervals by a bootstrap over the samples."""

    name: str
    before: Interval
    after: Interval
    change: Interval
    """After minus before, paired: far narrower than the two intervals let it seem."""
    unit: str
    """``%`` for shares (given as fractions), else what `Metric.units` says."""


@dataclasses.dataclass(frozen=True)
class Quality:
    """How good a candidate is, measured against a reference."""

    metric: Metric
    reason: str
    """Why this metric."""
    fits: bool
    """False: no metric of a task fits, and this one is what is left."""
    labelled: bool
    """The truth are labels; else it is what the reference gives."""
    loss: Interval
    """Fraction that was lost, in the metric's terms; below 0 where the candidate does better."""
    figures: tuple[MeasuredFigure, ...]
    agreement: Interval | None
    """Share of decisions that both models make alike; None where the metric knows of no decisions."""
    fidelity: Fidelity
    """How closely each output, and each slice of it, follows."""
    rows: Rows = dataclasses.field(repr=False, compare=False)
    """What the metric kept of each sample."""

    @property
    def lost(self) -> str:
        """What was lost of: ``top-1 accuracy``, ``top-1 agreement with the original``."""
        return self.metric.lost(self.labelled)


def measure_quality(
    recognition: Recognition,
    reference: Session,
    candidate: Session,
    samples: Samples,
    *,
    generator: np.random.Generator,
    size: int | None = None,
) -> Quality:
    """Run both models on all samples and compare what they give.

    Args:
        recognition: The metric, bound to the outputs of the reference (`onnxslim.quality.choosing`).
        reference: The original.
        candidate: What became of it.
        samples: Run one by one, or `size` at a time. Where they have labels, those are the truth.
        generator: For the bootstrap.
        size: Samples in a run; each still counts by itself where the outputs tell them apart.

    Raises:
        RunError: A model does not run, or lacks an output of the other.
        DataError: The samples cannot be read, there is none, or the metric does not understand the labels.
        BadOptionValue: A function of the user's raises.
    """
    metric = recognition.metric
    labelled = samples.labelled and metric.reads_labels
    tallies = start_tallies([spec.name for spec in reference.outputs], metric.slices())
    names = list(tallies)
    found: list[Rows] = []
    for batch in samples.batches(size):
        wanted, given = reference.run(batch.feeds, names), candidate.run(batch.feeds, names)
        with guarded(metric):
            found.append(metric.rows(wanted, given, batch.labels if labelled else None, batch.count))
        add_run(tallies, wanted, given, batch.count)
    if not found:
        raise DataError(
            "there is not a single sample", where=samples.source, hint="look into what the samples come from"
        )
    with guarded(metric):
        rows = metric.gather(np.concatenate(found))
        agreement = metric.agreement(rows)
        return Quality(
            metric=metric,
            reason=recognition.reason,
            fits=recognition.strength > 0,
            labelled=labelled,
            loss=metric.interval(rows, generator),
            figures=measured_figures(metric, rows, generator),
            agreement=None if agreement is None else wilson(float(agreement.sum()), len(agreement)),
            fidelity=summarize(list(tallies.values()), generator),
            rows=rows,
        )


def measured_figures(metric: Metric, rows: Rows, generator: np.random.Generator) -> tuple[MeasuredFigure, ...]:
    """Return the figures of a metric with their intervals; all are computed from the same draws of the rows."""
    values = metric.figures(rows)
    draws = []
    for _ in range(metric.resamples):
        drawn = metric.figures(rows[generator.integers(0, len(rows), len(rows))])
        draws.append([(drawn[name].before, drawn[name].after) for name in values])
    table = np.asarray(draws, np.float64).reshape(metric.resamples, len(values), 2)

    def interval(name: str, value: float, drawn: Draws) -> Interval:
        return wilson(value * len(rows), len(rows)) if metric.is_share(name, rows) else _interval(value, drawn)

    return tuple(
        MeasuredFigure(
            name=name,
            before=interval(name, figure.before, table[:, index, 0]),
            after=interval(name, figure.after, table[:, index, 1]),
            change=_interval(figure.after - figure.before, table[:, index, 1] - table[:, index, 0]),
            unit=metric.units.get(name, "%"),
        )
        for index, (name, figure) in enumerate(values.items())
    )


def _interval(value: float, draws: Draws) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, min(value, float(low)), max(value, float(high)))
