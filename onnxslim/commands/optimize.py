"""Makes a model smaller and faster: opens it, runs the passes, measures both ends, and writes result and reports."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import onnx
import onnx_ir as ir

from onnxslim.checks import examine
from onnxslim.commands.collect_metrics import make_report, measure_layers
from onnxslim.commands.harm import harm
from onnxslim.commands.output_paths import Place, check_places, places_read, places_written
from onnxslim.commands.provenance import hashing, sign
from onnxslim.commands.reproduction import reproduction
from onnxslim.data import Subset, no_samples
from onnxslim.data.trial_run import run_in_child
from onnxslim.diagnostic import Diagnostic
from onnxslim.errors import RunError
from onnxslim.metrics.classification import Classification
from onnxslim.model import (
    Placement,
    canonicalize,
    open_model,
    placing,
    save_model,
    stage_model,
    weight_bytes,
    written_file,
)
from onnxslim.model.inlining import DIAGNOSTICS
from onnxslim.model.nesting import count_nodes
from onnxslim.model.spilling import read_in, spilled
from onnxslim.pipeline.gc_pause import patient_collector
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.judge import Judge
from onnxslim.pipeline.measured import MeasuredModel, Run
from onnxslim.pipeline.options import format_passes
from onnxslim.pipeline.recipe import to_toml
from onnxslim.pipeline.records import ModelFile, PassRecord, Report, Reproduction
from onnxslim.pipeline.request import ModelSource, Request, share_samples
from onnxslim.pipeline.run import Stage, run_passes
from onnxslim.runtime.session import IN_MEMORY_LIMIT, Session

MOST_REWRITTEN = 20_000
"""Models of more nodes are compared as they are written: ONNX Runtime's own rewriting takes it 227 s for a chain of
100,000 nodes, and to open that chain without takes it 7 s."""
LARGE = 200_000_000
"""Bytes of weights from which on what is open counts: a session holds them once or twice."""


StageReports = Callable[[Report, Sequence[pathlib.Path], Placement], None]
"""Writes a report, for the placement to rename into place; what it looks like is a matter of the floor above."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What `optimize` returns."""

    model: ir.Model = dataclasses.field(repr=False)
    """The optimised model, in canonical form (`onnxslim.model`)."""
    report: Report
    """What was done, and the figures before and after."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path`, whole or not at all.

        Raises:
            OutputError: It cannot be written there, or it is the file that the model came from.
        """
        source = self.report.input.path
        read = places_read(self.model, None if source is None else pathlib.Path(source))
        check_places(read, places_written(pathlib.Path(path)))
        save_model(self.model, path)


@patient_collector()
def optimize(
    request: Request, check_reports: Callable[[Sequence[pathlib.Path]], None], stage_reports: StageReports
) -> Result:
    """Make a model smaller and faster, and measure that it still does its job.

    Args:
        request: What is asked for.
        check_reports: Raises UsageError or OutputError, before any work, where a report cannot be written.
        stage_reports: Writes the report where the request asks for it; the files get their names with the result.

    Raises:
        OnnxslimError: One of its subclasses, as `onnxslim.errors` lists them. Nothing is written then.
    """
    started = time.perf_counter()
    model, path = open_source(request.model, inline=request.inline)
    check_request_places(request, model, path)
    check_reports(request.reports)
    digest = None if path is None else hashing(path)
    with spilled(model) if request.lossy and _is_large(model) else contextlib.nullcontext():
        result = _optimized(request, model, path, digest, stage_reports)
    request.progress(f"done in {time.perf_counter() - started:.1f} s", 1, 1)
    return result


def _optimized(
    request: Request,
    model: ir.Model,
    path: pathlib.Path | None,
    digest: Future[str] | None,
    stage_reports: StageReports,
) -> Result:
    """Run the passes and write what is asked for. What is open is closed when it returns."""
    generator = np.random.default_rng(request.seed)
    run = prepare_run(request, model, path, generator)
    # How many rounds a measurement takes is a matter of time: it must not decide what the passes draw.
    judge = Judge(run, generator.spawn(1)[0])
    context = make_context(judge, generator)
    warnings = examine_samples(judge, context)
    stages = run_passes(request.recipe.passes, judge, context)
    input_sha256 = None if digest is None else digest.result()
    report = write_result(judge, stages, context.subsets, input_sha256, warnings, stage_reports)
    result = stages[-1].after.model
    read_in(result)
    return Result(result, report)


def open_source(source: ModelSource, *, inline: bool) -> tuple[ir.Model, pathlib.Path | None]:
    """Return a model in canonical form, and the file that it was read from; None: it came in memory, and was copied.

    Raises:
        ModelError: As `open_model` does.
    """
    if isinstance(source, onnx.ModelProto):
        own = onnx.ModelProto()  # tensors are views of it, and writing the result names them
        own.CopyFrom(source)
        copy = ir.from_proto(own)
    elif isinstance(source, ir.Model):
        copy = source.clone()
    else:
        return open_model(source, inline=inline), pathlib.Path(source)
    canonicalize(copy, inline=inline)
    return copy, None


def check_request_places(request: Request, model: ir.Model, path: pathlib.Path | None) -> None:
    """Check that what is asked for can be written, over nothing that is read.

    Raises:
        OutputError: As `check_places` does.
    """
    read = places_read(
        model,
        path,
        data=request.data,
        val=request.val,
        recipe=request.recipe_file,
        metric=request.metric.text,
        preprocess=request.preprocess,
    )
    read += [
        Place(f"what {step.name} reads", pathlib.Path(file))
        for step in request.recipe.passes
        for file in step.files_read
    ]
    check_places(read, places_written(request.output, request.reports))


def prepare_run(request: Request, model: ir.Model, path: pathlib.Path | None, generator: np.random.Generator) -> Run:
    """Return what a run works on: the original, opened, and its samples; `generator` draws which of them measure.

    Raises:
        RunError: ONNX Runtime refuses the model.
        DataError, UsageError: As `share_samples` does.
    """
    # Where nothing is timed and nothing is lost, models are run a few times to see that they give the same.
    pack = request.timed or bool(request.lossy)
    rewritten = pack or count_nodes(model) <= MOST_REWRITTEN

    def open_session(opened: ir.Model | pathlib.Path) -> Session:
        return Session.of(opened, request.target, pack=pack, optimize=rewritten)

    original = MeasuredModel(model, lambda: open_session(model if path is None else path), path)
    calibration = validation = no_samples()
    if request.check:
        source = request.val if request.data is None else request.data
        run_in_child(model, path, request.target, data=source, preprocess=request.preprocess)
        needed = request.lossy or request.has_samples or request.verify
        hint = None if needed else "--no-check does it without running the model"
        # no name here for the session: it would keep two large models open at once
        calibration, validation = share_samples(request, model, _session(original, hint), generator)
    low_memory = not pack and weight_bytes(model) > IN_MEMORY_LIMIT
    return Run(request, original, calibration, validation, open_session, low_memory, large=_is_large(model))


def _is_large(model: ir.Model) -> bool:
    return weight_bytes(model) > LARGE


def _session(original: MeasuredModel, hint: str | None) -> Session:
    """Open the model that came in; where ONNX Runtime refuses it, give `hint`."""
    try:
        return original.session
    except RunError as error:
        raise RunError(error.what, where=error.where, hint=hint) from error


def make_context(judge: Judge, generator: np.random.Generator) -> Context:
    """Return what the passes of a run are given."""
    run, request = judge.run, judge.request
    used = {"calibrating": run.calibration.count, "measuring": run.validation.count}
    total = sum(used.values())
    subsets = [Subset(purpose, count, total if request.splits_samples else count) for purpose, count in used.items()]
    # Lossy passes look inside on several samples at once, where the model gives each its own output.
    one_by_one = request.check and request.lossy and judge.batch == 1
    return Context(
        original=run.original.model,
        samples=run.calibration.one_by_one() if one_by_one else run.calibration,
        target=request.target,
        generator=generator,
        seed=request.seed,
        max_drop=request.max_drop,
        goal=request.goal,
        timed=request.timed,
        verify=request.verify,
        progress=request.progress,
        open_session=lambda model: Session.of(model, request.target, pack=not run.large),
        subsets=[] if run.calibration.synthetic else subsets,
    )


def examine_samples(judge: Judge, context: Context) -> tuple[Diagnostic, ...]:
    """Return warnings about samples that do not look as if they were the model's; none about synthetic ones."""
    run, request = judge.run, judge.request
    if not request.check or run.calibration.synthetic:
        return ()
    request.progress("checking the samples", 0, None)
    return examine(
        run.original.model,
        run.original.session,
        run.calibration,
        None if request.splits_samples else run.validation,
        context.open_session,
        request.seed,
        lossy=request.lossy,
        classes=_classes(judge) if request.lossy else None,
    )


def _classes(judge: Judge) -> str | None:
    """Return the output that holds a score for each class, where the task is to choose one."""
    metric = judge.recognition.metric
    return metric.output if isinstance(metric, Classification) and metric.axis == -1 else None


def write_result(
    judge: Judge,
    stages: Sequence[Stage],
    subsets: Sequence[Subset],
    input_sha256: str | None,
    warnings: Sequence[Diagnostic],
    stage_reports: StageReports,
) -> Report:
    """Sign the result, measure it where it will lie, and write it and its reports: all of them or none.

    `warnings` are about the samples; `input_sha256` is of the file that came in, None: it came in memory.

    Raises:
        BudgetMissed: More is lost than may be.
        OutputError: It cannot be written there.
    """
    request, original, result = judge.request, judge.run.original, stages[-1].after
    records = [stage.record() for stage in stages]
    kept = format_passes(stage.outcome.form.step for stage in stages if stage.kept)
    if kept:
        model, seed = result.model, request.seed
        sign(model, passes=kept, seed=seed, max_drop=request.max_drop, input_sha256=input_sha256)
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder, placing() as placement:
        before = original.path
        if before is None:
            before = pathlib.Path(folder, "before", "before.onnx")
            before.parent.mkdir()
            save_model(original.model, before)
        output = request.output or pathlib.Path(folder, "after.onnx")
        file = stage_model(result.model, output, placement, source=None if kept else original.path)
        if request.check and not request.measure and request.output is not None:
            judge.run.open_session(file)  # what is timed is opened in any case
        output_sha256 = None if request.output is None else hashing(written_file(file, output))
        if output_sha256 is not None and request.timed:
            output_sha256.result()  # nothing else may run while something is timed
        report = make_report(judge, result, records, (before, file), input_sha256, subsets)
        inlined = original.model.graph.meta.get(DIAGNOSTICS, ())
        diagnostics = (*inlined, *warnings, *_harm(judge, records), *report.diagnostics)
        report = dataclasses.replace(report, diagnostics=diagnostics, reproduction=reproduce(request))
        if output_sha256 is not None:
            report = dataclasses.replace(report, output=ModelFile(str(output), output_sha256.result()))
        if request.reports or request.breakdown:
            request.progress("measuring layers", 0, None)
            report = dataclasses.replace(report, breakdown=measure_layers(judge, result, records))
        stage_reports(report, request.reports, placement)
    return report


def _harm(judge: Judge, records: Sequence[PassRecord]) -> tuple[Diagnostic, ...]:
    """Return warnings about passes that did harm: within a budget there is none."""
    if judge.request.max_drop is not None or not judge.run.comparable:
        return ()
    return tuple(harm(judge.request.recipe.passes, records, judge.of_what, judge.recognition.metric.harmful))


def reproduce(request: Request) -> Reproduction:
    """Return how to run it again."""
    return reproduction(
        "optimize",
        [request.model],
        {
            "--passes": format_passes(request.recipe.passes),
            "--data": request.data,
            "--val": request.val,
            "--preprocess": request.preprocess,
            "--max-drop": request.max_drop,
            "--confidence": request.confidence,
            "--goal": request.goal.value,
            "--metric": request.metric.text,
            "--provider": request.target.provider,
            "--threads": request.target.threads,
            "--seed": request.seed,
            "--as-written": request.as_written,
            "--verify": request.verify,
            "--no-measure": request.check and not request.measure,
            "--no-check": not request.check,
            "--no-inline": not request.inline,
            "--output": request.output,
        },
        recipe=to_toml(request.recipe),
    )
