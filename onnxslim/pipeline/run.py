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

from onnxslim.errors import BadOptionValue, OnnxslimError, PassFailed, RunError
from onnxslim.model import canonicalize, open_model, save_model
from onnxslim.pipeline.figures import make_report
from onnxslim.pipeline.interface import Change, Context, Note, Pass, Progress
from onnxslim.pipeline.judge import Candidate, Goal, Judge, Verdict
from onnxslim.pipeline.provenance import sha256, sign
from onnxslim.pipeline.request import Data, read_request, share_samples
from onnxslim.recipe import format_passes, option_values
from onnxslim.report.model import ModelFile, PassRecord, Report
from onnxslim.report.place import check_places
from onnxslim.runner.accuracy import load_metric, top1
from onnxslim.runner.session import Session
from onnxslim.runner.target import detect_target


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
        check_places(None if source is None else pathlib.Path(source), pathlib.Path(path))
        save_model(self.model, path)


def optimize(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto,
    passes: str | Sequence[Pass | str] | None = None,
    *,
    data: Data | None = None,
    val: Data | None = None,
    output: str | os.PathLike[str] | None = None,
    max_drop: float | None = None,
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
    progress: Progress | None = None,
) -> Result:
    """Make a model smaller and faster, and measure that it still does its job.

    Args:
        model: An ONNX file, or a model in memory. Never changed.
        passes: What to do, as ``-p`` takes it (``"quant,prune:ratio=0.5"``), or a sequence of pass objects and such
            texts; None: what the recipe says, or ``"simplify"``.
        data: Samples that calibrate and fit; see `onnxslim.data.open_samples`. None: synthetic ones.
        val: Samples that measure. None: a quarter of `data` is set aside.
        output: Where to write the result; None: nowhere.
        max_drop: How much accuracy (without labels: agreement with the original) may be lost, as a fraction.
        recipe: A TOML file with passes, budget and seed; arguments given here win.
        provider: ``auto``, ``cpu`` or ``cuda``.
        seed: Seed of the one random generator; None: the recipe's, or 0.
        threads: Threads within one operator; None: as many as there are cores.
        verify: Check every rewrite where it is made, on random data.
        metric: ``module:function`` that scores outputs against labels; None: top-1.
        preprocess: How images become inputs; see `onnxslim.data`.
        goal: ``latency`` rolls back lossy passes that make the model slower here, ``size`` keeps them.
        as_written: Run the passes in the order given.
        measure: False times nothing; latency, memory and energy are then null in the report.
        progress: Told how far the run is.

    Raises:
        OnnxslimError: One of its subclasses, as `onnxslim.errors` lists them. Nothing is written then.
    """
    started = time.perf_counter()
    request = read_request(passes, recipe, max_drop, seed, as_written)
    if goal not in [each.value for each in Goal]:
        raise BadOptionValue(f"the goal cannot be {goal!r}", where="--goal", hint="latency or size")
    target = detect_target(provider, threads)
    score = top1 if metric is None else load_metric(metric)
    opened, path = _open(model)
    if output is not None:
        check_places(path, pathlib.Path(output))
    generator = np.random.default_rng(request.seed)
    original = Candidate(opened, Session.of(opened if path is None else path, target))
    calibration, validation = share_samples(data, val, opened, original.session, preprocess, request, generator)
    # How many rounds a measurement takes is a matter of time: it must not decide what the passes draw.
    (measuring,) = generator.spawn(1)
    judge = Judge(original, validation, target, measuring, score, request.max_drop, Goal(goal), measure)
    context = Context(
        original=opened,
        samples=calibration,
        target=target,
        generator=generator,
        max_drop=request.max_drop,
        verify=verify,
        progress=progress or Progress(),
        open_session=lambda each: Session.of(each, target),
    )
    current, records = _run(request.passes, judge, context)
    kept = [step for step, record in zip(request.passes, records, strict=True) if record.kept]
    digest = None if path is None else sha256(path)
    if kept:
        sign(
            current.model,
            passes=format_passes(kept),
            seed=request.seed or 0,
            max_drop=request.max_drop,
            input_sha256=digest,
        )
    with tempfile.TemporaryDirectory(prefix="onnxslim-") as folder:
        report = make_report(request, judge, current, records, path, digest, pathlib.Path(folder), context.progress)
        if output is not None:
            save_model(current.model, output)
            report = dataclasses.replace(report, output=ModelFile(str(output), sha256(output)))
    context.progress(f"done in {time.perf_counter() - started:.1f} s", 1, 1)
    return Result(current.model, report)


def _open(model: str | os.PathLike[str] | ir.Model | onnx.ModelProto) -> tuple[ir.Model, pathlib.Path | None]:
    if isinstance(model, onnx.ModelProto):
        model = ir.from_proto(model)
    if isinstance(model, ir.Model):
        copy = model.clone()
        canonicalize(copy)
        return copy, None
    return open_model(model), pathlib.Path(model)


def _run(passes: Sequence[Pass], judge: Judge, context: Context) -> tuple[Candidate, list[PassRecord]]:
    """Run every pass on a clone of what the last kept one left."""
    current = judge.original
    records: list[PassRecord] = []
    for number, step in enumerate(passes):
        context.progress(f"{step.name}", number, len(passes))
        started = time.perf_counter()
        clone = current.model.clone()
        clone.graph.meta.update(current.model.graph.meta)
        before = _nodes(clone)
        try:
            change = step.run(clone, context)
        except OnnxslimError:
            raise
        except Exception as error:
            done = ", ".join(record.name for record in records) or "no other pass"
            raise PassFailed(
                f"raised {type(error).__name__}: {error}",
                where=f"the pass {step.name} (after {done})",
                hint="this is a bug in onnxslim; leave the pass out with -p, and please report it",
            ) from error
        verdict, candidate = _judged(step, change, clone, current, judge)
        records.append(
            PassRecord(
                name=step.name,
                options=option_values(step),
                kind=step.judged_as.value,
                kept=verdict.kept,
                reason=verdict.reason,
                seconds=time.perf_counter() - started,
                nodes=(before, _nodes(clone)),
                changes=change.notes,
                layers=change.layers,
            )
        )
        current = candidate if verdict.kept else current
    return current, records


def _judged(step: Pass, change: Change, clone: ir.Model, current: Candidate, judge: Judge) -> tuple[Verdict, Candidate]:
    if not change.modified:
        return Verdict(False, _why_not(change.notes)), current
    try:
        candidate = Candidate(clone, Session.of(clone, judge.target))
        return judge.verdict(step, current, candidate), candidate
    except RunError as error:
        return Verdict(False, f"the result does not run: {error.what}"), current


def _nodes(model: ir.Model) -> int:
    return sum(1 for _ in model.graph.all_nodes())


def _why_not(notes: Sequence[Note]) -> str:
    """Return what speaks about the model as a whole, else the first reason that there is."""
    reasons = [note.reason for note in sorted(notes, key=lambda note: note.subject != "model") if note.reason]
    return f"nothing to do: {reasons[0]}" if reasons else "nothing to do"
