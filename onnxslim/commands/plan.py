"""What passes would do to a model, and why they would leave the rest alone; nothing is measured, nothing is written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from onnxslim.data import no_samples, synthetic_samples
from onnxslim.model import open_model
from onnxslim.pipeline.discovery import find_pass, pass_names
from onnxslim.pipeline.interface import Context, Kind, Pass
from onnxslim.pipeline.options import option_values, parse_passes
from onnxslim.pipeline.plan import PassPlan
from onnxslim.pipeline.schedule import schedule
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import detect_target

SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class PlannedPass:
    """What one pass would do."""

    name: Annotated[str, "the pass"]
    options: Annotated[Mapping[str, Any], "its options"]
    kind: Annotated[str, "exact or lossy"]
    plan: Annotated[PassPlan, "what it would do"]


@dataclasses.dataclass(frozen=True)
class ModelPlan:
    """What would be done to one model."""

    path: Annotated[str, "where it lies"]
    passes: Annotated[tuple[PlannedPass, ...], "in the order in which they would run, each on what the last one left"]


def plan_model(path: str | os.PathLike[str], passes: str | None = None, *, inline: bool = True) -> ModelPlan:
    """Say what passes would do to the model at `path`. No verdict is passed: optimize may roll some of it back.

    Args:
        path: The ONNX file.
        passes: As ``-p`` takes them; each is told on what the one before leaves. None: every exact pass that says of
            itself what it would do, each on the model as it is.
        inline: Inline local functions first.

    Raises:
        ModelError: As `open_model` does.
        UsageError: There is no such pass, or no such option.
    """
    model = open_model(path, inline=inline)
    target = detect_target("auto", None)
    if passes is None:
        found = (find_pass(name) for name in pass_names(ours=True))
        steps = tuple(step() for step in found if step.kind is Kind.EXACT and _tells(step))
    else:
        steps = schedule(parse_passes(passes))
    context = Context(
        original=model,
        samples=no_samples() if all(map(_tells, steps)) else synthetic_samples(model, SAMPLES, target=target),
        target=target,
        generator=np.random.default_rng(0),
        open_session=lambda opened: Session.of(opened, target),
    )
    planned = []
    current = model
    for step in steps:
        current = (current if passes is not None else model).clone()
        planned.append(PlannedPass(step.name, option_values(step), step.judged_as.value, step.plan(current, context)))
    return ModelPlan(os.fspath(Path(path)), tuple(planned))


def _tells(step: Pass | type[Pass]) -> bool:
    """Whether a pass says of itself what it would do: it needs no samples, and the model need not run to find some."""
    return (step if isinstance(step, type) else type(step)).plan is not Pass.plan
