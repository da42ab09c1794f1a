"""How close one model's outputs are to another's, how good both are where there are labels, how large and how fast."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Annotated

import numpy as np

from onnxslim.commands.breakdown import break_down
from onnxslim.commands.difference import Difference, compare_graphs
from onnxslim.commands.quality_records import fidelity_figures, quality_diagnostics, quality_figures
from onnxslim.commands.reproduction import reproduction
from onnxslim.data import open_samples, synthetic_samples
from onnxslim.data.trial_run import run_in_child
from onnxslim.diagnostic import Diagnostic
from onnxslim.errors import RunError
from onnxslim.model import file_bytes, open_model
from onnxslim.pipeline.records import (
    Breakdown,
    DataSource,
    FidelityFigures,
    OutputFigures,
    QualityFigures,
    Reproduction,
    check_record,
)
from onnxslim.pipeline.request import Data
from onnxslim.quality.choosing import MetricRequest, choose_metric
from onnxslim.quality.measure import measure_quality
from onnxslim.runtime.latency import Percentiles
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Interval
from onnxslim.runtime.target import Target, detect_target
from onnxslim.runtime.timing import STARTS, compare_latency

SYNTHETIC_SAMPLES = 16
"""Random samples to compare on where nobody gave any: enough to see that something broke, and no proof of more."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A candidate against a reference."""

    reference: Annotated[str, "path of the model that is right by definition"]
    candidate: Annotated[str, "path of the model that is compared with it"]
    target: Annotated[Target, "what both ran on"]
    data: Annotated[DataSource, "the samples"]
    fidelity: Annotated[FidelityFigures, "all outputs together"]
    quality: Annotated[QualityFigures, "how good the candidate is at its task, against the reference"]
    outputs: Annotated[tuple[OutputFigures, ...], "each output for itself"]
    reference_accuracy: Annotated[Interval | None, "the metric's first figure on the labelled samples"]
    candidate_accuracy: Annotated[Interval | None, "the metric's first figure on the labelled samples"]
    reference_bytes: Annotated[int, "the file, with external data"]
    candidate_bytes: Annotated[int, "the file, with external data"]
    reference_latency_ms: Annotated[Percentiles | None, "time of one inference"]
    candidate_latency_ms: Annotated[Percentiles | None, "time of one inference"]
    speedup: Annotated[Interval | None, "how many times as fast the candidate is, with its 95 % interval"]
    reproduction: Annotated[Reproduction | None, "how to compare again"] = None
    breakdown: Annotated[Breakdown | None, "layer by layer and op by op; only where it was asked for"] = None
    difference: Annotated[Difference | None, "what differs between the graphs; only where it was asked for"] = None
    reference_accuracy_reason: str | None = None
    candidate_accuracy_reason: str | None = None
    reference_latency_reason: str | None = None
    candidate_latency_reason: str | None = None
    speedup_reason: str | None = None
    diagnostics: Annotated[tuple[Diagnostic, ...], "warnings: what was found that the user should know"] = ()

    def __post_init__(self) -> None:
        check_record(self)


def compare(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    data: Data | None = None,
    preprocess: str | None = None,
    metric: str | None = None,
    provider: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    measure: bool = True,
    breakdown: bool = False,
    difference: bool = False,
) -> Comparison:
    """Run two models on the same samples and compare what they answer.

    Args:
        reference: The model that is right by definition.
        candidate: The model to compare with it; it must take the same inputs.
        data: The samples (see `open_samples`); None: random numbers.
        preprocess: How images become inputs.
        metric: The name of a metric, or ``module:function``; None: the one that fits the outputs.
        provider: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads within one operator; None: one a core.
        seed: Of random samples and of the bootstrap.
        measure: Time both, each in a process of its own.
        breakdown: Measure the layers as well: size, work, time and error of each.
        difference: Compare the graphs as well.

    Raises:
        ModelError, DataError, RunError, ProviderUnavailable, BadOptionValue: As the parts do.
    """
    target = detect_target(provider, threads)
    asked = MetricRequest.read(metric)
    opened, changed = (open_model(path) for path in (reference, candidate))  # its errors are clearer than the runtime's
    for model, path in ((opened, reference), (changed, candidate)):
        run_in_child(model, pathlib.Path(path), target, data=data, preprocess=preprocess)
    one, other = (Session.of(os.fspath(path), target) for path in (reference, candidate))
    if data is None:
        samples = synthetic_samples(opened, SYNTHETIC_SAMPLES, seed)
    else:
        samples = open_samples(data, one.inputs, preprocess=preprocess)
    chosen = choose_metric(asked, one, opened, samples)
    quality = measure_quality(chosen, one, other, samples, generator=np.random.default_rng(seed))
    first = quality.figures[0] if quality.labelled else None
    reason = None
    if first is None:
        unread = f"the metric {quality.metric.name} reads no labels"
        reason = unread if samples.labelled else "the samples carry no labels"
    figures = quality_figures(quality)
    timed, untimed = None, "not timed: --no-measure"
    if measure:
        files = pathlib.Path(reference), pathlib.Path(candidate)
        before, after = files if target.facts.own_process else (one, other)
        generator = np.random.default_rng(seed)
        try:
            timed = compare_latency(before, after, samples.first(), target, generator=generator, starts=STARTS)
        except RunError as error:
            untimed = f"not timed: {error.what}"
    why = None if timed else untimed
    return Comparison(
        reference=os.fspath(reference),
        candidate=os.fspath(candidate),
        target=target,
        data=DataSource(samples.source, samples.count, samples.labelled, samples.synthetic),
        fidelity=fidelity_figures(quality),
        quality=figures,
        outputs=figures.outputs,
        reference_accuracy=None if first is None else first.before,
        candidate_accuracy=None if first is None else first.after,
        reference_accuracy_reason=reason,
        candidate_accuracy_reason=reason,
        reference_bytes=file_bytes(reference, opened),
        candidate_bytes=file_bytes(candidate, changed),
        reference_latency_ms=timed.before.times if timed else None,
        candidate_latency_ms=timed.after.times if timed else None,
        speedup=timed.ratio if timed else None,
        reference_latency_reason=why,
        candidate_latency_reason=why,
        speedup_reason=why,
        diagnostics=quality_diagnostics(quality, labelled=samples.labelled),
        reproduction=reproduction(
            "compare",
            [reference, candidate],
            {
                "--data": data,
                "--preprocess": preprocess,
                "--metric": metric,
                "--provider": target.provider,
                "--threads": target.threads,
                "--seed": seed,
                "--no-measure": not measure,
            },
        ),
        breakdown=break_down(opened, changed, samples.first(), target, samples) if breakdown else None,
        difference=compare_graphs(opened, changed, (os.fspath(reference), os.fspath(candidate)))
        if difference
        else None,
    )
