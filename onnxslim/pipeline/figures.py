"""Gathers the figures of a report: what a model costs and how good it is."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxslim.errors import BudgetMissed
from onnxslim.graph.cost import count_macs, count_parameters
from onnxslim.model import file_bytes, save_model
from onnxslim.nesting import count_nodes
from onnxslim.pipeline.interface import Progress
from onnxslim.pipeline.judge import Candidate, Judge
from onnxslim.pipeline.provenance import version
from onnxslim.recipe import Recipe
from onnxslim.report.fidelity import fidelity_figures
from onnxslim.report.model import (
    Budget,
    DataSource,
    FidelityFigures,
    Figures,
    ModelFile,
    PassRecord,
    Percentiles,
    Ratios,
    Report,
)
from onnxslim.runner.energy import measure_energy
from onnxslim.runner.latency import Latency, PairedLatency
from onnxslim.runner.memory import peak_memory

NOT_ASKED = "not measured: asked not to"


def model_figures(
    candidate: Candidate, path: pathlib.Path, size_bytes: int, latency: Latency | None, judge: Judge
) -> Figures:
    """Return the figures of the model that lies at `path`, takes `size_bytes` there and is open as `candidate`."""
    # none where nothing is run: MACs are then those of symbolic dimensions, which count as 1
    shapes = {name: array.shape for name, array in judge.feeds.items() if hasattr(array, "shape")}
    model = candidate.model
    accuracy = judge.measure_accuracy(candidate)
    unlabelled = "the samples are synthetic" if judge.samples.synthetic else "the samples have no labels"
    if not judge.check:
        unlabelled = NOT_ASKED
    memory = peak_memory(path, judge.feeds, judge.target) if judge.measure else None
    energy = measure_energy(candidate.session, judge.feeds) if judge.measure else None
    return Figures(
        size_bytes=size_bytes,
        parameters=count_parameters(model),
        macs=count_macs(model, shapes or None),
        nodes=count_nodes(model),
        latency_ms=Percentiles(latency.p50, latency.p95, latency.p99) if latency else None,
        throughput_per_s=latency.throughput_per_s if latency else None,
        peak_memory_bytes=None if memory is None or memory.value is None else round(memory.value),
        energy_mj=energy.value if energy else None,
        accuracy=None if accuracy is None else accuracy.value,
        accuracy_interval=None if accuracy is None else (accuracy.low, accuracy.high),
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
        latency=paired.ratio if paired else None,
        parameters_reason=None if after.parameters else "there are none left to compare with",
        macs_reason=None if after.macs else "there are none left to compare with",
        latency_reason=None if paired else NOT_ASKED,
    )


def quality_figures(candidate: Candidate, judge: Judge) -> FidelityFigures:
    """Return the fidelity of the result, or why nothing is claimed."""
    fidelity = judge.measure_fidelity(candidate)
    if fidelity is not None:
        return fidelity_figures(fidelity)
    reason = "not claimed: the samples are synthetic" if judge.check else NOT_ASKED
    return FidelityFigures(None, None, None, None, reason, reason, reason, reason)


@contextlib.contextmanager
def _lying_at(model: ir.Model, path: pathlib.Path | None) -> Iterator[pathlib.Path]:
    """Yield the file of a model; one that was handed over in memory gets one for a while."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        save_model(model, pathlib.Path(folder) / "before.onnx")
        yield pathlib.Path(folder) / "before.onnx"


def make_report(
    request: Recipe,
    judge: Judge,
    result: Candidate,
    records: Sequence[PassRecord],
    path: pathlib.Path | None,
    digest: str | None,
    file: pathlib.Path,
    progress: Progress,
) -> Report:
    """Measure both ends and put the report together; the result lies at `file`, alone in its folder but for weights."""
    progress("measuring", 0, None)
    original = judge.original
    drop = judge.drop(result) if request.max_drop is not None and not judge.samples.synthetic else None
    met = drop is None or request.max_drop is None or drop <= request.max_drop
    if not met:
        raise BudgetMissed(f"{drop:.2%} is lost in all, where {request.max_drop:.2%} may be", where="--max-drop")
    paired = judge.latency(original, result, seconds=3.0) if judge.measure else None
    after_bytes = sum(each.stat().st_size for each in file.parent.iterdir())
    after = model_figures(result, file, after_bytes, paired.after if paired else None, judge)
    with _lying_at(original.model, path) as came_from:
        before_bytes = file_bytes(came_from, original.model)
        before = model_figures(original, came_from, before_bytes, paired.before if paired else None, judge)
    samples = judge.samples
    memory = None if path is not None else "the model is in memory"
    unsaved = "the model is in memory"
    return Report(
        onnxslim=version(),
        seed=request.seed or 0,
        input=ModelFile(None if path is None else str(path), digest, path_reason=memory, sha256_reason=memory),
        output=ModelFile(None, None, path_reason=unsaved, sha256_reason=unsaved),
        target=judge.target,
        data=DataSource(
            samples.source,
            samples.count,
            samples.labelled,
            samples.synthetic,
            samples_reason=None if samples.count is not None else "they are streamed",
        ),
        before=before,
        after=after,
        ratio=ratios(before, after, paired),
        fidelity=quality_figures(result, judge),
        budget=Budget(request.max_drop, met, None if request.max_drop is not None else "no budget was given"),
        passes=tuple(records),
    )
