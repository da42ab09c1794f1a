"""Gathers the figures of a report: what a model costs and how good it is."""

from __future__ import annotations

import pathlib

from onnxslim.graph.cost import measure_cost
from onnxslim.model import file_bytes
from onnxslim.pipeline.judge import Candidate, Judge
from onnxslim.report.model import FidelityFigures, Figures, Percentiles, Ratios
from onnxslim.runner.energy import measure_energy
from onnxslim.runner.latency import Latency, PairedLatency
from onnxslim.runner.memory import peak_memory

NOT_ASKED = "not measured: asked not to"


def model_figures(candidate: Candidate, path: pathlib.Path, latency: Latency | None, judge: Judge) -> Figures:
    """Return the figures of the model that lies at `path` and is open as `candidate`."""
    cost = measure_cost(candidate.model)
    judge.measure_quality(candidate)
    accuracy = candidate.accuracy
    unlabelled = "the samples are synthetic" if judge.samples.synthetic else "the samples have no labels"
    memory = peak_memory(path, judge.feeds, judge.target) if judge.measure else None
    energy = measure_energy(candidate.session, judge.feeds) if judge.measure else None
    return Figures(
        size_bytes=file_bytes(path),
        parameters=cost.parameters,
        macs=cost.macs,
        nodes=cost.nodes,
        latency_ms=latency and Percentiles(latency.p50, latency.p95, latency.p99),
        throughput_per_s=latency and latency.throughput_per_s,
        peak_memory_bytes=None if memory is None or memory.value is None else round(memory.value),
        energy_mj=energy and energy.value,
        accuracy=accuracy and accuracy.value,
        accuracy_interval=accuracy and (accuracy.low, accuracy.high),
        latency_reason=None if latency else NOT_ASKED,
        throughput_reason=None if latency else NOT_ASKED,
        peak_memory_reason=memory.reason if memory else NOT_ASKED,
        energy_reason=energy.reason if energy else NOT_ASKED,
        accuracy_reason=None if accuracy else unlabelled,
    )


def ratios(before: Figures, after: Figures, paired: PairedLatency | None) -> Ratios:
    """Return before / after."""

    def ratio(one: int, other: int) -> float | None:
        return one / other if other else None

    return Ratios(
        size=before.size_bytes / after.size_bytes,
        parameters=ratio(before.parameters, after.parameters),
        macs=ratio(before.macs, after.macs),
        latency=paired and paired.ratio,
        parameters_reason=None if after.parameters else "there are none left to compare with",
        macs_reason=None if after.macs else "there are none left to compare with",
        latency_reason=None if paired else NOT_ASKED,
    )


def fidelity_figures(candidate: Candidate, judge: Judge) -> FidelityFigures:
    """Return the fidelity of the result, or why nothing is claimed."""
    fidelity = candidate.fidelity
    if fidelity is None:
        reason = "not claimed: the samples are synthetic"
        return FidelityFigures(None, None, None, None, reason, reason, reason, reason)
    reason = fidelity.reason or "no output can be compared so"
    return FidelityFigures(
        agreement=fidelity.agreement,
        sqnr_db=fidelity.sqnr_db,
        cosine=fidelity.cosine,
        max_abs_error=fidelity.max_abs_error,
        agreement_reason=None if fidelity.agreement else reason,
        sqnr_reason=None if fidelity.sqnr_db else reason,
        cosine_reason=None if fidelity.cosine else reason,
        max_abs_error_reason=None if fidelity.max_abs_error is not None else reason,
    )
