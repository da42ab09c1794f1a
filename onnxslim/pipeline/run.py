"""Runs passes over a model: after each one check, compare, time; keep it, or roll it back with the reason."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir

from onnxslim.checks import examine
from onnxslim.data import Samples, Subset, no_samples
from onnxslim.data.trial_run import run_in_child
from onnxslim.diagnostic import Diagnostic
from onnxslim.errors import BadOptionValue, RunError, UsageError
from onnxslim.metrics.classification import Classification
from onnxslim.model import canonicalize, open_model, placing, save_model, stage_model, weight_bytes
from onnxslim.model.inlining import DIAGNOSTICS
from onnxslim.model.nesting import count_nodes
from onnxslim.pipeline.collect_metrics import make_report, measure_layers
from onnxslim.pipeline.course import run_passes
from onnxslim.pipeline.gc_pause import patient_collector
from onnxslim.pipeline.harm import harm
from onnxslim.pipeline.interface import Context, Goal, Kind, Pass, Progress
from onnxslim.pipeline.judge import Judge, MeasuredModel
from onnxslim.pipeline.output_paths import check_places, places_read, places_written
from onnxslim.pipeline.provenance import hashing, sign
from onnxslim.pipeline.recipe import Recipe, format_passes, to_toml
from onnxslim.pipeline.records import ModelFile, PassRecord, Report
from onnxslim.pipeline.reproduction import reproduction
from onnxslim.pipeline.request import Data, read_request, share_samples
from onnxslim.quality.choosing import Request
from onnxslim.report.destination import check_destinations, save_report
from onnxslim.runtime.session import IN_MEMORY_LIMIT, Session
from onnxslim.runtime.target import detect_target

MOST_REWRITTEN = 20_000
"""Models of more nodes are compared as they are written: ONNX Runtime's own rewriting takes it 227 s for a chain of
100,000 nodes, and to open that chain without takes it 7 s."""


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
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto,
    passes: str | Sequence[Pass | str] | None = None,
    *,
    data: Data | None = None,
    val: Data | None = None,
    output: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    max_drop: float | None = None,
    confidence: float | None = None,
    recipe: str | os.PathLike[str] | None = None,
    provider: str = "auto",
    seed: int | None = None,
    threads: int | None = None,
    verify: bool = False,
    metric: str | None = None,
    preprocess: str | None = None,
    goal: str = "latency",
    as_written: bool = False,
    measure: bool = True,
    check: bool = True,
    inline: bool = True,
    breakdown: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Make a model smaller and faster, and measure that it still does its job.

    Args:
        model: An ONNX file, or a model in memory. Never changed.
        passes: What to do, as ``-p`` takes it (``"quant,prune:ratio=0.5"``), or a sequence of pass objects and such
            texts; None: what the recipe says, or ``"simplify"``.
        data: Samples that calibrate and fit; see `onnxslim.data.open_samples`. None: synthetic ones.
        val: Samples that measure. None: a quarter of `data` is set aside; up to half, where few must carry a budget.
        output: Where to write the result; None: nowhere.
        report: Where to write the report, as JSON (.json) or as a page (.html); several places, if need be. Result and
            reports are written together.
        max_drop: How much may be lost in the metric's terms, as a fraction: of accuracy, which is estimated where there
            are no labels. Lossy passes are then kept in the strongest form that holds, and share it.
        confidence: How sure it must be that no more is lost: 0.95 demands that the bound on what is lost be within the
            budget. None: the estimate decides.
        recipe: A TOML file with passes, budget and seed; arguments given here win.
        provider: ``auto``, ``cpu`` or ``cuda``.
        seed: Seed of the one random generator; None: the recipe's, or 0.
        threads: Threads within one operator; None: as many as there are cores.
        verify: Check every rewrite where it is made, on random data.
        metric: What the result is judged by: the name of a metric (`onnxslim.metrics`), or ``module:function``, which
            scores outputs against labels; None: the one that fits the outputs.
        preprocess: How images become inputs; see `onnxslim.data`.
        goal: ``latency`` rolls back lossy passes that make the model slower here, ``size`` keeps them.
        as_written: Run the passes in the order given.
        measure: False times nothing; latency, memory and energy are then null in the report.
        check: False runs no model at all: what exact passes promise is believed, not compared, and nothing is timed.
            Only for exact passes without data. The rules are proved by tests, your model is not.
        inline: Inline local functions; False leaves them alone, as calls.
        breakdown: Measure the layers as well: size, work, time and error of each, before and after. It is done in any
            case where a report is written.
        progress: Told how far the run is.

    Raises:
        OnnxslimError: One of its subclasses, as `onnxslim.errors` lists them. Nothing is written then.
    """
    started = time.perf_counter()
    request = read_request(passes, recipe, max_drop, seed, as_written, confidence)
    if goal not in [each.value for each in Goal]:
        raise BadOptionValue(f"the goal cannot be {goal!r}", where="--goal", hint="latency or size")
    lossy = [step.name for step in request.passes if step.judged_as is Kind.LOSSY]
    if not check:
        _refuse_unchecked(lossy, data, val, verify)
        measure = False
    target = detect_target(provider, threads)
    asked = Request.read(metric)
    opened, path = _open(model, inline)
    reports = [pathlib.Path(each) for each in ((report,) if isinstance(report, str | os.PathLike) else report)]
    read = places_read(opened, path, data=data, val=val, recipe=recipe, metric=metric, preprocess=preprocess)
    check_places(read, places_written(None if output is None else pathlib.Path(output), reports))
    check_destinations(reports)
    digested = None if path is None else hashing(path)
    generator = np.random.default_rng(request.seed)
    # Where nothing is timed and nothing is lost, models are run a few times to see that they give the same.
    pack = measure or bool(lossy)
    rewritten = pack or count_nodes(opened) <= MOST_REWRITTEN

    def open_session(each: ir.Model | pathlib.Path) -> Session:
        return Session.of(each, target, pack=pack, optimize=rewritten)

    original = MeasuredModel(opened, lambda: open_session(opened if path is None else path), path)
    calibration = validation = no_samples()
    if check:
        run_in_child(opened, path, target, data=val if data is None else data, preprocess=preprocess)
        needed = lossy or data is not None or val is not None or verify
        hint = None if needed else "--no-check does it without running the model"
        # no name here for the session: it would keep two large models open at once
        calibration, validation = share_samples(
            data, val, opened, _session(original, hint), preprocess, request, generator
        )
    # How many rounds a measurement takes is a matter of time: it must not decide what the passes draw.
    (measuring,) = generator.spawn(1)
    judge = Judge(
        original,
        validation,
        target,
        measuring,
        open_session,
        asked,
        request.max_drop,
        Goal(goal),
        measure,
        sparing=not pack and weight_bytes(opened) > IN_MEMORY_LIMIT,
        check=check,
        confidence=request.confidence,
    )
    context = Context(
        original=opened,
        samples=calibration,
        target=target,
        generator=generator,
        seed=request.seed or 0,
        max_drop=request.max_drop,
        goal=Goal(goal),
        verify=verify,
        progress=progress or Progress(),
        open_session=lambda each: Session.of(each, target),
        subsets=[] if calibration.synthetic else _shares(calibration, validation, data is None or val is None),
    )
    warnings: tuple[Diagnostic, ...] = ()
    if check and not calibration.synthetic:
        context.progress("checking the samples", 0, None)
        warnings = examine(
            opened,
            original.session,
            calibration,
            None if data is None or val is None else validation,
            context.open_session,
            request.seed or 0,
            lossy=lossy,
            classes=_classes(judge) if lossy else None,
        )
    again = reproduction(
        "optimize",
        [model],
        {
            "--passes": format_passes(request.passes),
            "--data": data,
            "--val": val,
            "--preprocess": preprocess,
            "--max-drop": request.max_drop,
            "--confidence": request.confidence,
            "--goal": goal,
            "--metric": metric,
            "--provider": target.provider,
            "--threads": target.threads,
            "--seed": request.seed or 0,
            "--as-written": as_written,
            "--verify": verify,
            "--no-measure": check and not measure,
            "--no-check": not check,
            "--no-inline": not inline,
            "--output": output,
        },
        recipe=to_toml(request),
    )
    stages = run_passes(request.passes, judge, context)
    current, records = stages[-1].after, [stage.record() for stage in stages]
    kept = [stage.outcome.form.step for stage in stages if stage.kept]
    digest = None if digested is None else digested.result()
    if kept:
        sign(
            current.model,
            passes=format_passes(kept),
            seed=request.seed or 0,
            max_drop=request.max_drop,
            input_sha256=digest,
        )
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder, placing() as placement:
        target_file = pathlib.Path(folder) / "after.onnx" if output is None else pathlib.Path(output)
        file = stage_model(current.model, target_file, placement, source=None if kept else path)
        if check and not measure and output is not None:
            open_session(file)  # what is timed is opened in any case
        written = None if output is None else hashing(file)
        if written is not None and measure:
            written.result()  # nothing else may run while something is timed
        made = make_report(request, judge, current, records, path, digest, file, context.progress, context.subsets)
        kept_calls = opened.graph.meta.get(DIAGNOSTICS, ())
        made = dataclasses.replace(
            made, diagnostics=(*kept_calls, *warnings, *_harm(request, judge, records), *made.diagnostics)
        )
        if written is not None:
            made = dataclasses.replace(made, output=ModelFile(str(output), written.result()))
        layers = None
        if reports or breakdown:
            context.progress("measuring layers", 0, None)
            layers = measure_layers(judge, current, records)
        made = dataclasses.replace(made, reproduction=again, breakdown=layers)
        save_report(made, *reports, placement=placement)
    context.progress(f"done in {time.perf_counter() - started:.1f} s", 1, 1)
    return Result(current.model, made)


def _classes(judge: Judge) -> str | None:
    """Return the output that holds a score for each class, where the task is to choose one."""
    metric = judge.recognition.metric
    return metric.output if isinstance(metric, Classification) and metric.axis == -1 else None


def _harm(request: Recipe, judge: Judge, records: Sequence[PassRecord]) -> tuple[Diagnostic, ...]:
    """Return warnings about passes that did harm: within a budget there is none."""
    if request.max_drop is not None or judge.samples.synthetic or not judge.check:
        return ()
    return tuple(harm(request.passes, records, judge.of_what, judge.recognition.metric.harmful))


def _shares(calibration: Samples, validation: Samples, divided: bool) -> list[Subset]:
    """Return which samples calibrate and which measure; `divided`: both are parts of one source."""
    used = {"calibrating": calibration.count, "measuring": validation.count}
    total = sum(used.values())
    return [Subset(purpose, count, total if divided else count) for purpose, count in used.items()]


def _refuse_unchecked(lossy: Sequence[str], data: Data | None, val: Data | None, verify: bool) -> None:
    """Refuse to leave out the check where something asks for it."""
    if lossy:
        raise UsageError(f"{lossy[0]} changes the outputs, which must be compared", where="--no-check", hint="drop it")
    if data is not None or val is not None or verify:
        asked = "--verify" if verify else "samples"
        raise UsageError(f"{asked} without a check are of no use", where="--no-check", hint=f"drop it, or {asked}")


def _session(original: MeasuredModel, hint: str | None) -> Session:
    """Open the model that came in; where ONNX Runtime refuses it, give `hint`."""
    try:
        return original.open()
    except RunError as error:
        raise RunError(error.what, where=error.where, hint=hint) from error


def _open(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto, inline: bool
) -> tuple[ir.Model, pathlib.Path | None]:
    if isinstance(model, onnx.ModelProto):
        own = onnx.ModelProto()  # tensors are views of it, and writing the result names them
        own.CopyFrom(model)
        copy = ir.from_proto(own)
    elif isinstance(model, ir.Model):
        copy = model.clone()
    else:
        return open_model(model, inline=inline), pathlib.Path(model)
    canonicalize(copy, inline=inline)
    return copy, None
