"""The functions of the public API, which `onnxslim` exports."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from onnxslim.commands.optimize import Result
from onnxslim.commands.optimize import optimize as run
from onnxslim.pipeline.interface import Goal, Pass, Progress
from onnxslim.pipeline.options import read_choice
from onnxslim.pipeline.request import Data, ModelSource, Request, merge_recipe
from onnxslim.quality.choosing import MetricRequest
from onnxslim.report.destination import check_destinations, stage_reports
from onnxslim.runtime.target import detect_target


def optimize(
    model: ModelSource,
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
    reports = tuple(pathlib.Path(path) for path in ((report,) if isinstance(report, str | os.PathLike) else report))
    request = Request(
        model=model,
        recipe=merge_recipe(passes, recipe, max_drop=max_drop, seed=seed, confidence=confidence, as_written=as_written),
        goal=read_choice(Goal, goal, "--goal"),
        target=detect_target(provider, threads),
        metric=MetricRequest.read(metric),
        data=data,
        val=val,
        preprocess=preprocess,
        output=None if output is None else pathlib.Path(output),
        reports=reports,
        recipe_file=recipe,
        as_written=as_written,
        verify=verify,
        measure=measure,
        check=check,
        inline=inline,
        breakdown=breakdown,
        progress=progress or Progress(),
    )
    return run(request, check_destinations, stage_reports)
