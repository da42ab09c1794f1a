"""Runs passes over a model: after each one check, compare, time; keep it, or roll it back with the reason."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.data import Samples, open_samples, synthetic_samples
from onnxslim.errors import BadOptionValue, BudgetMissed, OnnxslimError, OutputError, PassFailed, RunError, UsageError
from onnxslim.model import canonicalize, open_model, save_model
from onnxslim.pipeline.figures import fidelity_figures, model_figures, ratios
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, Progress
from onnxslim.pipeline.judge import Candidate, Goal, Judge, Verdict
from onnxslim.pipeline.provenance import sha256, sign, version
from onnxslim.pipeline.schedule import schedule
from onnxslim.recipe import Recipe, format_passes, load_recipe, option_values, parse_passes
from onnxslim.report.model import Budget, DataSource, ModelFile, PassRecord, Report
from onnxslim.runner.accuracy import load_metric, top1
from onnxslim.runner.session import Session, TensorSpec
from onnxslim.runner.target import Target, detect_target

SET_ASIDE = 0.25
"""The share of `data` that measures where no `val` is given."""
SYNTHETIC_SAMPLES = 8

Data = str | os.PathLike[str] | Mapping[str, np.ndarray[Any, Any]] | Samples


@dataclasses.dataclass(frozen=True)
class Result:
    """What `optimize` returns."""

    model: ir.Model
    """The optimised model, in canonical form (`onnxslim.model`)."""
    report: Report
    """What was done, and the figures before and after."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to `path`, whole or not at all.

        Raises:
            OutputError: It cannot be written there.
        """
        save_model(self.model, path)


def optimize(
    model: str | os.PathLike[str] | ir.Model,
    passes: str | Sequence[Pass] | None = None,
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
        passes: What to do, as ``-p`` takes it (``"quant,prune:ratio=0.5"``), or pass objects; None: what the recipe
            says, or ``"simplify"``.
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
    request = _request(passes, recipe, max_drop, seed, as_written)
    if goal not in [each.value for each in Goal]:
        raise BadOptionValue(f"the goal cannot be {goal!r}", where="--goal", hint="latency or size")
    target = detect_target(provider, threads)
    score = top1 if metric is None else load_metric(metric)
    opened, path = _open(model)
    _check_output(path, output)
    generator = np.random.default_rng(request.seed)
    original = Candidate(opened, Session.of(opened if path is None else path, target))
    calibration, validation = _samples(data, val, original, preprocess, request, generator)
    judge = Judge(original, validation, target, generator, score, request.max_drop, Goal(goal), measure)
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
        report = _report(request, judge, current, records, path, digest, pathlib.Path(folder), context.progress)
        if output is not None:
            save_model(current.model, output)
            report = dataclasses.replace(report, output=ModelFile(str(output), sha256(output)))
    context.progress(f"done in {time.perf_counter() - started:.1f} s", 1, 1)
    return Result(current.model, report)


def _request(
    passes: str | Sequence[Pass] | None,
    recipe: str | os.PathLike[str] | None,
    max_drop: float | None,
    seed: int | None,
    as_written: bool,
) -> Recipe:
    """Return what is asked for: arguments first, then the recipe, then the defaults."""
    written = Recipe(parse_passes("simplify"), None, 0) if recipe is None else load_recipe(pathlib.Path(recipe))
    chosen = written.passes if passes is None else parse_passes(passes) if isinstance(passes, str) else tuple(passes)
    drop = written.max_drop if max_drop is None else max_drop
    if drop is not None and not 0 <= drop <= 1:
        raise BadOptionValue(
            f"the budget cannot be {drop}", where="--max-drop", hint="a fraction from 0 to 1: 0.01 is one point"
        )
    number = written.seed or 0 if seed is None else seed
    if number < 0:
        raise BadOptionValue(f"the seed cannot be {number}", where="--seed", hint="0 or more")
    return Recipe(schedule(chosen, as_written=as_written), drop, number)


def _open(model: str | os.PathLike[str] | ir.Model) -> tuple[ir.Model, pathlib.Path | None]:
    if isinstance(model, ir.Model):
        copy = model.clone()
        canonicalize(copy)
        return copy, None
    return open_model(model), pathlib.Path(model)


def _check_output(path: pathlib.Path | None, output: str | os.PathLike[str] | None) -> None:
    """Say before the work, not after it, that the result cannot be written."""
    if output is None:
        return
    target = pathlib.Path(output).absolute()
    if path is not None and target.resolve() == path.resolve():
        raise OutputError("this is the input, which is never changed", where=output, hint="choose another name with -o")
    if target.is_dir():
        raise OutputError("this is a folder", where=output, hint="name a file in it")
    if not target.parent.is_dir():
        raise OutputError("there is no such folder", where=target.parent, hint="make it first")
    if not os.access(target.parent, os.W_OK):
        raise OutputError("the folder is read-only", where=target.parent, hint="choose another with -o")


def _samples(
    data: Data | None,
    val: Data | None,
    original: Candidate,
    preprocess: str | None,
    request: Recipe,
    generator: np.random.Generator,
) -> tuple[Samples, Samples]:
    """Return the samples that calibrate and those that measure; no sample does both, but for synthetic ones."""
    inputs: Sequence[TensorSpec] = original.session.inputs
    if data is None and val is None:
        lossy = [step.name for step in request.passes if step.kind is Kind.LOSSY]
        if request.max_drop is not None and lossy:
            raise UsageError(
                f"a budget for {', '.join(lossy)} cannot be checked without data",
                where="--max-drop",
                hint="give samples with --data, or leave the budget out",
            )
        made = synthetic_samples(original.model, SYNTHETIC_SAMPLES, request.seed or 0)
        return made, made
    opened = [None if each is None else open_samples(each, inputs, preprocess=preprocess) for each in (data, val)]
    calibration, validation = opened
    if calibration is not None and validation is not None:
        return calibration, validation
    return (calibration or validation).split(1 - SET_ASIDE, generator)  # type: ignore[union-attr]


def _run(passes: Sequence[Pass], judge: Judge, context: Context) -> tuple[Candidate, list[PassRecord]]:
    """Run every pass on a clone of what the last kept one left."""
    current, records = judge.original, []
    for number, step in enumerate(passes):
        context.progress(f"{step.name}", number, len(passes))
        started = time.perf_counter()
        clone = current.model.clone()
        clone.graph.meta.update(current.model.graph.meta)
        before = clone.graph.num_nodes()
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
                kind=step.kind.value,
                kept=verdict.kept,
                reason=verdict.reason,
                seconds=time.perf_counter() - started,
                nodes=(before, clone.graph.num_nodes()),
                changes=change.notes,
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


def _why_not(notes: Sequence[Note]) -> str:
    reasons = [note.reason for note in notes if note.reason]
    return f"nothing to do: {reasons[0]}" if reasons else "nothing to do"


def _report(
    request: Recipe,
    judge: Judge,
    result: Candidate,
    records: Sequence[PassRecord],
    path: pathlib.Path | None,
    digest: str | None,
    folder: pathlib.Path,
    progress: Progress,
) -> Report:
    """Measure both ends and put the report together; `folder` is for files that go away afterwards."""
    progress("measuring", 0, None)
    original = judge.original
    files = [path or folder / "before.onnx", folder / "after.onnx"]
    if path is None:
        save_model(original.model, files[0])
    save_model(result.model, files[1])
    drop = judge.drop(result) if request.max_drop is not None and not judge.samples.synthetic else None
    met = drop is None or request.max_drop is None or drop <= request.max_drop
    if not met:
        raise BudgetMissed(f"{drop:.2%} is lost in all, where {request.max_drop:.2%} may be", where="--max-drop")
    paired = judge.latency(original, result, seconds=3.0) if judge.measure else None
    before = model_figures(original, files[0], paired and paired.before, judge)
    after = model_figures(result, files[1], paired and paired.after, judge)
    samples = judge.samples
    memory = "the model is in memory"
    return Report(
        onnxslim=version(),
        seed=request.seed or 0,
        input=ModelFile(path and str(path), digest, path_reason=memory, sha256_reason=memory),
        output=ModelFile(None, None, path_reason=memory, sha256_reason=memory),
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
        fidelity=fidelity_figures(result, judge),
        budget=Budget(request.max_drop, met, None if request.max_drop is not None else "no budget was given"),
        passes=tuple(records),
    )


__all__ = ["Data", "Goal", "Kind", "Result", "Target", "optimize"]
