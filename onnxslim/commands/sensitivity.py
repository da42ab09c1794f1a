"""What each layer costs where it alone is changed, what that saves, and what a pass would make of it."""

from __future__ import annotations

import dataclasses
import glob
import os
from pathlib import Path
from typing import Annotated

import numpy as np

from onnxslim.commands.optimize import make_context, open_source, prepare_run
from onnxslim.errors import UsageError
from onnxslim.pipeline.attempt import Attempt, attempt
from onnxslim.pipeline.discovery import find_pass, pass_names
from onnxslim.pipeline.gc_pause import patient_collector
from onnxslim.pipeline.interface import Context, LayerSensitivity, Pass, Progress
from onnxslim.pipeline.judge import Judge
from onnxslim.pipeline.measured import MeasuredModel
from onnxslim.pipeline.observations import Observations
from onnxslim.pipeline.options import format_passes
from onnxslim.pipeline.records import DataSource, check_record
from onnxslim.pipeline.request import Data, Request, merge_recipe
from onnxslim.quality.choosing import MetricRequest
from onnxslim.runtime.statistics import Interval
from onnxslim.runtime.target import Target, detect_target

BUDGETS = ("error", "size", "latency")
"""Options of passes that say how much may be lost, or must be saved, by the whole model."""


@dataclasses.dataclass(frozen=True)
class LayerLoss:
    """What is lost in the terms of the task where one layer alone is changed."""

    layer: Annotated[str, "the layer"]
    loss: Annotated[Interval | None, "fraction that is lost, with its 95 % interval"]
    loss_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class ModelSensitivity:
    """What the layers of one model cost where each alone is changed."""

    path: Annotated[str, "where it lies"]
    step: Annotated[str, "the pass whose layers these are, as -p takes it"]
    target: Annotated[Target, "what it was measured on"]
    data: Annotated[DataSource, "the samples that losses are measured with"]
    layers: Annotated[tuple[LayerSensitivity, ...], "in the order of the graph"]
    lost: Annotated[str, "what a loss is a loss of; the truth are the labels, or without them the original"]
    loss: Annotated[Interval | None, "fraction that is lost where the pass does what it would, with its 95 % interval"]
    losses: Annotated[tuple[LayerLoss, ...], "of the layers that cost most, as many as were asked for"] = ()
    layers_reason: str | None = None
    loss_reason: str | None = None

    def __post_init__(self) -> None:
        check_record(self)


@patient_collector()
def measure_sensitivity(
    path: str | os.PathLike[str],
    passes: str | None = None,
    *,
    worst: int = 0,
    data: Data | None = None,
    preprocess: str | None = None,
    metric: str | None = None,
    provider: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    inline: bool = True,
    progress: Progress | None = None,
) -> ModelSensitivity:
    """Measure what each layer of the model at `path` costs. No verdict is passed, and nothing is written.

    Args:
        path: The ONNX file.
        passes: As ``-p`` takes them; the first that says what layers cost is told of. None: the installed one.
        worst: Of so many layers that cost most, what is lost in the terms of the task is measured as well.
        data: Samples; None: random numbers. A quarter is set aside to measure losses with.
        preprocess: How images become inputs.
        metric: What losses are measured in; None: what fits the outputs.
        provider: As for `optimize`, and so are `threads`, `seed` and `inline`.
        threads: Threads within one operator.
        seed: Of all random numbers.
        inline: Inline local functions first.
        progress: Told how far it is.

    Raises:
        UsageError: No pass is named that says what layers cost.
        ModelError, DataError, RunError, ProviderUnavailable, BadOptionValue: As the parts do.
    """
    recipe = merge_recipe(_telling() if passes is None else passes, None, seed=seed)
    request = Request(
        model=path,
        recipe=recipe,
        target=detect_target(provider, threads),
        metric=MetricRequest.read(metric),
        data=data,
        preprocess=preprocess,
        inline=inline,
        progress=progress or Progress(),
    )
    place = next((index for index, step in enumerate(recipe.passes) if step.tells_layers), None)
    if place is None:
        hint = f"name one that does: {_telling()}"
        raise UsageError("no pass is named that says what layers cost", where="-p", hint=hint)
    model, file = open_source(path, inline=inline)
    generator = np.random.default_rng(seed)
    run = prepare_run(request, model, file, generator)
    judge = Judge(run, generator.spawn(1)[0])
    context = make_context(judge, generator)
    current = run.original
    for step in recipe.passes[:place]:
        current = attempt(step, current, judge, context).candidate or current
    step = recipe.passes[place]
    tried = attempt(step, current, judge, dataclasses.replace(context, observations=Observations()))
    layers = tried.change.sensitivity
    costly = sorted((row for row in layers if row.share), key=lambda row: -(row.share or 0.0))[:worst]
    losses = []
    for index, row in enumerate(costly):
        request.progress("layers alone", index, len(costly))
        losses.append(_alone(row.layer, step, current, judge, context))
    whole = _judged(tried, judge, "")
    validation = run.validation
    return ModelSensitivity(
        path=os.fspath(Path(path)),
        step=format_passes([step]),
        target=request.target,
        data=DataSource(validation.source, validation.count, validation.labelled, validation.synthetic),
        layers=layers,
        layers_reason=None if layers else str(tried.why_not()),
        lost=judge.of_what,
        loss=whole.loss,
        losses=tuple(losses),
        loss_reason=whole.loss_reason,
    )


def _telling() -> str:
    """Return the passes that say what layers cost, as -p takes them."""
    return ",".join(name for name in pass_names() if find_pass(name).tells_layers)


def _alone(layer: str, step: Pass, current: MeasuredModel, judge: Judge, context: Context) -> LayerLoss:
    """Return what is lost where a pass changes one layer and nothing else."""
    defaults = {field.name: field.default for field in dataclasses.fields(step)}
    if "include" not in defaults:
        return LayerLoss(layer, None, "the pass cannot be told to change one layer")
    # A budget would take the one layer back: what it costs is all that is lost.
    budgets = {name: defaults[name] for name in BUDGETS if name in defaults}
    one: Pass = dataclasses.replace(step, **budgets, **{"include": (glob.escape(layer),)})
    untimed = dataclasses.replace(context, observations=Observations(), timed=False)
    return _judged(attempt(one, current, judge, untimed), judge, layer)


def _judged(tried: Attempt, judge: Judge, layer: str) -> LayerLoss:
    if tried.candidate is None:
        return LayerLoss(layer, None, str(tried.failure or tried.why_not()))
    loss = judge.loss(tried.candidate)
    return LayerLoss(layer, loss, None if loss else judge.nothing_claimed())
