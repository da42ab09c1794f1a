"""Gathers the figures of a report: what a model costs and how good it is."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from onnxslim.analysis.cost import count_macs, count_parameters
from onnxslim.commands.breakdown import break_down
from onnxslim.commands.quality_records import fidelity_figures, quality_diagnostics, quality_figures, record_fidelity
from onnxslim.commands.resources import resource_figures, unmeasured_resources
from onnxslim.data import Subset
from onnxslim.errors import BudgetMissed, RunError
from onnxslim.installation import version
from onnxslim.model import download_bytes, file_bytes
from onnxslim.model.compressed import compressed_bytes
from onnxslim.model.nesting import count_nodes
from onnxslim.pipeline.budget import allowance, samples_to_settle, settled
from onnxslim.pipeline.interface import NoteCode
from onnxslim.pipeline.judge import Judge
from onnxslim.pipeline.measured import MeasuredModel
from onnxslim.pipeline.records import (
    NOT_ASKED,
    Breakdown,
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
from onnxslim.runtime.latency import Latency, PairedLatency
from onnxslim.runtime.timing import STARTS


def time_result(judge: Judge, result: MeasuredModel, seconds: float = 3.0) -> tuple[PairedLatency | None, str | None]:
    """Return how fast the original and the result are, or why that is not known."""
    if not judge.request.timed:
        return None, NOT_ASKED
    try:
        return judge.latency(judge.run.original, result, seconds, STARTS), None
    except RunError as error:
        return None, f"not measured: {error.what}"


def model_figures(
    candidate: MeasuredModel,
    path: pathlib.Path,
    size_bytes: int,
    compressed: int,
    latency: Latency | None,
    untimed: str | None,
    judge: Judge,
) -> Figures:
    """Return the figures of the model that lies at `path`, takes `size_bytes` there, `compressed` bytes once it is
    compressed, and is open as `candidate`."""
    # none where nothing is run: MACs are then those of symbolic dimensions, which count as 1
    shapes = {name: array.shape for name, array in judge.feeds.items() if hasattr(array, "shape")}
    model = candidate.model
    quality = judge.measure_quality(candidate)
    accuracy = quality.figures[0].after if quality is not None and quality.labelled else None
    unlabelled = "the samples are synthetic" if judge.run.validation.synthetic else "the samples have no labels"
    if quality is not None and judge.run.validation.labelled:
        unlabelled = f"the metric {quality.metric.name} reads no labels"
    if not judge.request.check:
        unlabelled = NOT_ASKED
    if judge.request.timed:
        resources = resource_figures(path, candidate.session, judge.feeds, latency)
    else:
        resources = unmeasured_resources(NOT_ASKED)
    return Figures(
        size_bytes=size_bytes,
        compressed_bytes=compressed,
        parameters=count_parameters(model),
        macs=count_macs(model, shapes or None),
        nodes=count_nodes(model),
        latency_ms=latency.times if latency else None,
        throughput_per_s=latency.throughput_per_s if latency else None,
        accuracy=None if accuracy is None else accuracy.value,
        accuracy_interval=None if accuracy is None else (accuracy.low, accuracy.high),
        latency_reason=untimed,
        throughput_reason=untimed,
        accuracy_reason=None if accuracy else unlabelled,
        **resources,
    )


def ratios(before: Figures, after: Figures, paired: PairedLatency | None, untimed: str | None) -> Ratios:
    """Return before / after."""
    none_left = "there are none left to compare with"
    return Ratios(
        size=before.size_bytes / after.size_bytes,
        parameters=before.parameters / after.parameters if after.parameters else None,
        macs=before.macs / after.macs if after.macs else None,
        latency=paired.ratio if paired else None,
        parameters_reason=None if after.parameters else none_left,
        macs_reason=None if after.macs else none_left,
        latency_reason=untimed,
    )


def closeness(candidate: MeasuredModel, judge: Judge) -> tuple[FidelityFigures, QualityFigures]:
    """Return the fidelity of the result and its quality, or why nothing is claimed."""
    quality = judge.measure_quality(candidate)
    if quality is not None:
        return fidelity_figures(quality), quality_figures(quality)
    reason = judge.nothing_claimed()
    unknown = QualityFigures(None, reason, reason, None, metric_reason=reason, loss_reason=reason)
    return record_fidelity({}, reason, reason), unknown


def measure_layers(judge: Judge, result: MeasuredModel, records: Sequence[PassRecord]) -> Breakdown:
    """Return where size, work, time and error lie in the original and in the result."""
    return break_down(
        judge.run.original.model,
        result.model,
        judge.feeds,
        judge.request.target,
        judge.run.validation if judge.request.check else None,
        changes=[change for record in records if record.kept for change in record.layers],
        rescaled={
            value
            for record in records
            if record.kept
            for note in record.changes
            if note.code == NoteCode.RESCALED.word
            for value in note.values
        },
        timed=judge.request.timed,
    )


def check_budget(judge: Judge, result: MeasuredModel) -> Budget:
    """Return whether what was lost in all is within the budget, and how many samples would make sure of it.

    Raises:
        BudgetMissed: It is more than may be lost.
    """
    max_drop, confidence = judge.request.max_drop, judge.request.confidence
    unsure = None if confidence is not None else "the estimate decides"

    def budget(needed: int | None, reason: str | None) -> Budget:
        none = None if max_drop is not None else "no budget was given"
        return Budget(max_drop, True, needed, confidence, none, reason, unsure)

    if max_drop is None:
        return budget(None, "no budget was given")
    loss = judge.loss(result) if judge.run.comparable else None
    if loss is None:
        return budget(None, judge.nothing_claimed())
    allowed = allowance(max_drop, 0.0, 0, confidence)
    if not allowed.holds(loss):
        raise BudgetMissed(
            f"{allowed.bound(loss):.2%} is lost in all, where {max_drop:.2%} may be",
            where="--max-drop",
            hint="allow more, or give more samples to measure with",
        )
    if settled(loss, max_drop):
        return budget(None, "the interval of the loss lies within the budget")
    needed = samples_to_settle(loss, max_drop, judge.run.validation.count)
    return budget(needed, None if needed is not None else "what is lost is just what may be")


def make_report(
    judge: Judge,
    result: MeasuredModel,
    records: Sequence[PassRecord],
    files: tuple[pathlib.Path, pathlib.Path],
    digest: str | None,
    subsets: Sequence[Subset],
) -> Report:
    """Measure both ends and put the report together.

    `files` are where the original lies, and the result, alone in its folder but for weights; `digest` is the hash of
    the file that came in, None where the model came in memory.

    Raises:
        BudgetMissed: More is lost than may be.
    """
    request, original, samples = judge.request, judge.run.original, judge.run.validation
    request.progress("measuring", 0, None)
    budget = check_budget(judge, result)
    paired, untimed = time_result(judge, result)
    came_from, file = files
    written = [part for part in file.parent.iterdir() if part.is_file()]
    sizes = sum(part.stat().st_size for part in written), sum(map(compressed_bytes, written))
    after = model_figures(result, file, *sizes, paired.after if paired else None, untimed, judge)
    sizes = file_bytes(came_from, original.model), download_bytes(came_from, original.model)
    before = model_figures(original, came_from, *sizes, paired.before if paired else None, untimed, judge)
    fidelity, quality = closeness(result, judge)
    judged = judge.measure_quality(result)
    diagnostics = () if judged is None else quality_diagnostics(judged, labelled=samples.labelled)
    path, in_memory = original.path, "the model is in memory"
    memory = None if path is not None else in_memory
    return Report(
        onnxslim=version(),
        seed=request.seed,
        input=ModelFile(None if path is None else str(path), digest, path_reason=memory, sha256_reason=memory),
        output=ModelFile(None, None, path_reason=in_memory, sha256_reason=in_memory),
        target=request.target,
        data=DataSource(samples.source, samples.count, samples.labelled, samples.synthetic, subsets=tuple(subsets)),
        before=before,
        after=after,
        ratio=ratios(before, after, paired, untimed),
        fidelity=fidelity,
        quality=quality,
        budget=budget,
        passes=tuple(records),
        diagnostics=diagnostics,
    )
