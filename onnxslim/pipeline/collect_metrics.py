"""Gathers the figures of a report: what a model costs and how good it is."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxslim.analysis.cost import count_macs, count_parameters
from onnxslim.data import Subset
from onnxslim.errors import BudgetMissed, RunError
from onnxslim.model import file_bytes, save_model
from onnxslim.model.nesting import count_nodes
from onnxslim.pipeline.breakdown import Breakdown, break_down
from onnxslim.pipeline.budget import allowance, samples_to_settle, settled
from onnxslim.pipeline.interface import Progress
from onnxslim.pipeline.judge import Judge, MeasuredModel
from onnxslim.pipeline.provenance import version
from onnxslim.pipeline.quality_records import fidelity_figures, quality_diagnostics, quality_figures
from onnxslim.pipeline.recipe import Recipe
from onnxslim.pipeline.records import (
    Budget,
    DataSource,
    FidelityFigures,
    Figures,
    ModelFile,
    PassRecord,
    QualityFigures,
    Ratios,
    Report,
)
from onnxslim.pipeline.speed import cold_figures, percentiles
from onnxslim.runtime.energy import measure_energy
from onnxslim.runtime.latency import Latency, PairedLatency
from onnxslim.runtime.memory import peak_memory
from onnxslim.runtime.timing import STARTS

NOT_ASKED = "not measured: asked not to"


@dataclasses.dataclass(frozen=True)
class Timed:
    """How fast the original and the result are, or why that is not known."""

    paired: PairedLatency | None
    reason: str | None

    @classmethod
    def of(cls, judge: Judge, result: MeasuredModel, seconds: float = 3.0) -> Timed:
        """Time the result against the original, unless nothing is to be timed."""
        if not judge.measure:
            return cls(None, NOT_ASKED)
        try:
            return cls(judge.latency(judge.original, result, seconds, STARTS), None)
        except RunError as error:
            return cls(None, f"not measured: {error.what}")


def model_figures(
    candidate: MeasuredModel, path: pathlib.Path, size_bytes: int, latency: Latency | None, timed: Timed, judge: Judge
) -> Figures:
    """Return the figures of the model that lies at `path`, takes `size_bytes` there and is open as `candidate`."""
    # none where nothing is run: MACs are then those of symbolic dimensions, which count as 1
    shapes = {name: array.shape for name, array in judge.feeds.items() if hasattr(array, "shape")}
    model = candidate.model
    quality = judge.measure_quality(candidate)
    accuracy = quality.figures[0].after if quality is not None and quality.labelled else None
    unlabelled = "the samples are synthetic" if judge.samples.synthetic else "the samples have no labels"
    if quality is not None and judge.samples.labelled:
        unlabelled = f"the metric {quality.metric.name} reads no labels"
    if not judge.check:
        unlabelled = NOT_ASKED
    memory = peak_memory(path, judge.feeds, judge.target) if judge.measure else None
    energy = measure_energy(candidate.session, judge.feeds) if judge.measure else None
    cold, uncold = cold_figures(latency, path, judge.feeds, judge.target) if judge.measure else (None, NOT_ASKED)
    return Figures(
        size_bytes=size_bytes,
        parameters=count_parameters(model),
        macs=count_macs(model, shapes or None),
        nodes=count_nodes(model),
        latency_ms=percentiles(latency) if latency else None,
        load_ms=cold.load_ms if cold else None,
        first_run_ms=cold.first_run_ms if cold else None,
        throughput_per_s=latency.throughput_per_s if latency else None,
        peak_memory_bytes=None if memory is None or memory.value is None else round(memory.value),
        energy_mj=energy.value if energy else None,
        accuracy=None if accuracy is None else accuracy.value,
        accuracy_interval=None if accuracy is None else (accuracy.low, accuracy.high),
        latency_reason=timed.reason,
        load_reason=uncold,
        first_run_reason=uncold,
        throughput_reason=timed.reason,
        peak_memory_reason=memory.reason if memory else NOT_ASKED,
        energy_reason=energy.reason if energy else NOT_ASKED,
        accuracy_reason=None if accuracy else unlabelled,
    )


def ratios(before: Figures, after: Figures, timed: Timed) -> Ratios:
    """Return before / after."""

    def ratio(one: int, other: int) -> float | None:
        return one / other if other else None

    return Ratios(
        size=before.size_bytes / after.size_bytes,
        parameters=ratio(before.parameters, after.parameters),
        macs=ratio(before.macs, after.macs),
        latency=timed.paired.ratio if timed.paired else None,
        parameters_reason=None if after.parameters else "there are none left to compare with",
        macs_reason=None if after.macs else "there are none left to compare with",
        latency_reason=timed.reason,
    )


def closeness(candidate: MeasuredModel, judge: Judge) -> tuple[FidelityFigures, QualityFigures]:
    """Return the fidelity of the result and its quality, or why nothing is claimed."""
    quality = judge.measure_quality(candidate)
    if quality is not None:
        return fidelity_figures(quality), quality_figures(quality)
    reason = judge.nothing_claimed()
    unknown = FidelityFigures(None, None, None, None, reason, reason, reason, reason)
    return unknown, QualityFigures(None, reason, reason, None, metric_reason=reason, loss_reason=reason)


def measure_layers(judge: Judge, result: MeasuredModel, records: Sequence[PassRecord]) -> Breakdown:
    """Return where size, work, time and error lie in the original and in the result."""
    return break_down(
        judge.original.model,
        result.model,
        judge.feeds,
        judge.target,
        judge.samples if judge.check else None,
        changes=[change for record in records if record.kept for change in record.layers],
        timed=judge.measure,
    )


@contextlib.contextmanager
def _lying_at(model: ir.Model, path: pathlib.Path | None) -> Iterator[pathlib.Path]:
    """Yield the file of a model; one that was handed over in memory gets one for a while."""
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        save_model(model, pathlib.Path(folder) / "before.onnx")
        yield pathlib.Path(folder) / "before.onnx"


def check_budget(request: Recipe, judge: Judge, result: MeasuredModel) -> Budget:
    """Return whether what was lost in all is within the budget, and how many samples would make sure of it.

    Raises:
        BudgetMissed: It is more than may be lost.
    """
    sure, unsure = request.confidence, None if request.confidence is not None else "the estimate decides"

    def budget(needed: int | None, reason: str | None) -> Budget:
        none = None if request.max_drop is not None else "no budget was given"
        return Budget(request.max_drop, True, needed, sure, none, reason, unsure)

    if request.max_drop is None:
        return budget(None, "no budget was given")
    loss = None if judge.samples.synthetic or not judge.check else judge.loss(result)
    if loss is None:
        return budget(None, judge.nothing_claimed())
    allowed = allowance(request.max_drop, 0.0, 0, request.confidence)
    if not allowed.holds(loss):
        raise BudgetMissed(
            f"{allowed.bound(loss):.2%} is lost in all, where {request.max_drop:.2%} may be",
            where="--max-drop",
            hint="allow more, or give more samples to measure with",
        )
    if settled(loss, request.max_drop):
        return budget(None, "the interval of the loss lies within the budget")
    if judge.samples.count is None:
        return budget(None, "the samples are streamed")
    needed = samples_to_settle(loss, request.max_drop, judge.samples.count)
    return budget(needed, None if needed is not None else "what is lost is just what may be")


def make_report(
    request: Recipe,
    judge: Judge,
    result: MeasuredModel,
    records: Sequence[PassRecord],
    path: pathlib.Path | None,
    digest: str | None,
    file: pathlib.Path,
    progress: Progress,
    subsets: Sequence[Subset] = (),
) -> Report:
    """Measure both ends and put the report together; the result lies at `file`, alone in its folder but for weights."""
    progress("measuring", 0, None)
    original = judge.original
    budget = check_budget(request, judge, result)
    timed = Timed.of(judge, result)
    paired = timed.paired
    after_bytes = sum(each.stat().st_size for each in file.parent.iterdir())
    after = model_figures(result, file, after_bytes, paired.after if paired else None, timed, judge)
    with _lying_at(original.model, path) as came_from:
        before_bytes = file_bytes(came_from, original.model)
        latency = paired.before if paired else None
        before = model_figures(original, came_from, before_bytes, latency, timed, judge)
    samples = judge.samples
    fidelity, quality = closeness(result, judge)
    judged = judge.measure_quality(result)
    diagnostics = () if judged is None else quality_diagnostics(judged, labelled=samples.labelled)
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
            subsets=tuple(subsets),
        ),
        before=before,
        after=after,
        ratio=ratios(before, after, timed),
        fidelity=fidelity,
        quality=quality,
        budget=budget,
        passes=tuple(records),
        diagnostics=diagnostics,
    )
