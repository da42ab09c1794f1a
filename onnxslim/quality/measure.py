"""Measures the quality of a candidate in one pass: figures and loss of the metric, and fidelity of the outputs."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
import numpy.typing as npt

from onnxslim.data import Samples
from onnxslim.errors import DataError
from onnxslim.quality.custom import guarded
from onnxslim.quality.fidelity import Fidelity, add_run, start_tallies, summarize
from onnxslim.quality.metric import Metric, Recognition, Rows
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Interval, percentile_interval, wilson


@dataclasses.dataclass(frozen=True)
class MeasuredFigure:
    """One figure of the task: top-1, mean IoU, mAP. Without labels what the original gives is the truth."""

    name: Annotated[str, "what it is"]
    before: Annotated[Interval, "of the original, with its 95 % interval"]
    after: Annotated[Interval, "of the result"]
    change: Annotated[Interval, "after minus before, paired by samples"]
    unit: Annotated[str, "% for shares, which are given as fractions; else the unit, empty where there is none"]


@dataclasses.dataclass(frozen=True)
class Quality:
    """Quality of a candidate, measured against a reference."""

    metric: Metric
    reason: str
    """Reason for this metric."""
    fits: bool
    """False: no metric of a task fits, and this is the fallback."""
    labelled: bool
    """Whether labels are the truth; otherwise it is the output of the reference."""
    loss: Interval
    """Loss as a fraction, in terms of the metric; below 0 if the candidate is better."""
    figures: tuple[MeasuredFigure, ...]
    agreement: Interval | None
    """Share of equal decisions of both models; None if the metric has no decisions."""
    fidelity: Fidelity
    """Fidelity of outputs and their slices."""
    rows: Rows = dataclasses.field(repr=False, compare=False)
    """Rows of the samples."""

    @property
    def lost(self) -> str:
        """The quantity that is lost: ``top-1 accuracy``, ``top-1 agreement with the original``."""
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
    """Return the quality of a candidate, from running both models on all samples.

    The labels of the samples, if any, are the truth. They run `size` at a time (None: 1), and still count separately if
    the outputs have a sample axis. `generator` draws the bootstrap.

    Raises:
        RunError: A model does not run, or lacks an output of the other model.
        DataError: The samples cannot be read, there are none, or the metric cannot read the labels.
        BadOptionValue: The user's metric raised an exception.
    """
    metric = recognition.metric
    labelled = samples.labelled and metric.reads_labels
    tallies = start_tallies([spec.name for spec in reference.outputs], metric.slices())
    names = list(tallies)
    parts: list[Rows] = []
    for batch in samples.batches(size):
        expected, actual = reference.run(batch.feeds, names), candidate.run(batch.feeds, names)
        with guarded(metric):
            parts.append(metric.rows(expected, actual, batch.labels if labelled else None, batch.count))
        add_run(tallies, expected, actual, batch.count)
    if not parts:
        hint = "look into what the samples come from"
        raise DataError("there is not a single sample", where=samples.source, hint=hint)
    with guarded(metric):
        rows = metric.gather(np.concatenate(parts))
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
    """Return the figures of a metric with intervals, all from the same resamples of the rows."""
    values = metric.figures(rows)
    draws = []
    for _ in range(metric.resamples):
        drawn = metric.figures(rows[generator.integers(0, len(rows), len(rows))])
        draws.append([(drawn[name].before, drawn[name].after) for name in values])
    table = np.asarray(draws, np.float64).reshape(metric.resamples, len(values), 2)

    def interval(name: str, value: float, drawn: npt.NDArray[np.float64]) -> Interval:
        share = metric.is_share(name, rows)
        return wilson(value * len(rows), len(rows)) if share else percentile_interval(value, drawn)

    return tuple(
        MeasuredFigure(
            name=name,
            before=interval(name, figure.before, table[:, index, 0]),
            after=interval(name, figure.after, table[:, index, 1]),
            change=percentile_interval(figure.after - figure.before, table[:, index, 1] - table[:, index, 0]),
            unit=metric.units.get(name, "%"),
        )
        for index, (name, figure) in enumerate(values.items())
    )
