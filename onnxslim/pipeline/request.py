"""What a run is asked for, read and checked before any work; and the samples that it works on."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxslim.data import Samples, open_samples, synthetic_samples
from onnxslim.errors import BadOptionValue, UsageError
from onnxslim.pipeline.interface import Goal, Kind, Pass, Progress
from onnxslim.pipeline.options import parse_passes
from onnxslim.pipeline.recipe import Recipe, check_range, load_recipe
from onnxslim.pipeline.schedule import schedule
from onnxslim.quality.choosing import MetricRequest
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

SET_ASIDE, MOST_SET_ASIDE = 0.25, 0.5
"""The share of `data` that measures where no `val` is given: the least, and the most, where there are few samples."""
RESOLVES = 2.5
"""So many samples, divided by the budget, resolve it: 250 for one point. On ResNet-8, -18 and -20 the loss that 256
samples give has a standard error of 0.11 to 0.47 points where about one is lost."""
SYNTHETIC_SAMPLES = 8
DEFAULT_PASSES = "simplify"

ModelSource = str | os.PathLike[str] | ir.Model | onnx.ModelProto
Data = str | os.PathLike[str] | Mapping[str, np.ndarray[Any, Any]] | Samples


@dataclasses.dataclass(frozen=True)
class Request:
    """What a run is asked for. `onnxslim.optimize` explains the fields.

    Raises:
        UsageError: There is to be no check, and something asks for one.
    """

    model: ModelSource
    recipe: Recipe
    """The passes in the order in which they run, the budget, the seed."""
    target: Target
    """Where the result will run."""
    metric: MetricRequest = dataclasses.field(default_factory=MetricRequest)
    data: Data | None = None
    val: Data | None = None
    preprocess: str | None = None
    output: pathlib.Path | None = None
    reports: tuple[pathlib.Path, ...] = ()
    recipe_file: str | os.PathLike[str] | None = None
    """The file that the recipe was read from; None: there is none."""
    goal: Goal = Goal.LATENCY
    as_written: bool = False
    verify: bool = False
    measure: bool = True
    check: bool = True
    inline: bool = True
    breakdown: bool = False
    progress: Progress = dataclasses.field(default_factory=Progress)

    def __post_init__(self) -> None:
        if self.check:
            return
        if self.lossy:
            what = f"{self.lossy[0]} changes the outputs, which must be compared"
            raise UsageError(what, where="--no-check", hint="drop it")
        if self.has_samples or self.verify:
            needless = "--verify" if self.verify else "samples"
            what = f"{needless} without a check are of no use"
            raise UsageError(what, where="--no-check", hint=f"drop it, or {needless}")

    @property
    def lossy(self) -> tuple[str, ...]:
        """The names of the passes that may change the outputs."""
        return tuple(step.name for step in self.recipe.passes if step.judged_as is Kind.LOSSY)

    @property
    def timed(self) -> bool:
        """Whether models are timed."""
        return self.measure and self.check

    @property
    def has_samples(self) -> bool:
        """Whether samples are given."""
        return self.data is not None or self.val is not None

    @property
    def splits_samples(self) -> bool:
        """Whether the samples that calibrate and those that measure are parts of one source."""
        return self.data is None or self.val is None

    @property
    def max_drop(self) -> float | None:
        """The budget, as a fraction; None: there is none."""
        return self.recipe.max_drop

    @property
    def confidence(self) -> float | None:
        """How sure it must be that the budget holds; None: the estimate decides."""
        return self.recipe.confidence

    @property
    def seed(self) -> int:
        """The seed of the one random generator."""
        return self.recipe.seed or 0


def merge_recipe(
    passes: str | Sequence[Pass | str] | None,
    recipe: str | os.PathLike[str] | None,
    *,
    max_drop: float | None = None,
    seed: int | None = None,
    confidence: float | None = None,
    as_written: bool = False,
) -> Recipe:
    """Return what is to be done: arguments first, then the recipe in a file, then the defaults.

    Raises:
        UsageError: It names no pass, or what it says makes no sense.
    """
    written = Recipe(()) if recipe is None else load_recipe(pathlib.Path(recipe))
    chosen = written.passes or DEFAULT_PASSES if passes is None else passes
    parts = [chosen] if isinstance(chosen, str) else list(chosen)
    steps = [step for part in parts for step in (parse_passes(part) if isinstance(part, str) else (part,))]
    if not steps:
        raise UsageError("no pass is asked for", where="-p", hint="name one, or leave it out for simplify")
    settings = {"max_drop": max_drop, "seed": seed, "confidence": confidence}
    given: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
    for key, value in given.items():
        check_range(key, value, f"--{key.replace('_', '-')}", BadOptionValue)
    merged = dataclasses.replace(written, passes=schedule(steps, as_written=as_written), **given)
    if merged.confidence is not None and merged.max_drop is None:
        raise UsageError("there is no budget to be sure of", where="--confidence", hint="give one with --max-drop")
    return dataclasses.replace(merged, seed=merged.seed or 0)


def share_samples(
    request: Request, model: ir.Model, session: Session, generator: np.random.Generator
) -> tuple[Samples, Samples]:
    """Return the samples that calibrate and those that measure; no sample does both, but for synthetic ones.

    Where one of the two is missing a part of the other takes its place: a quarter, and up to half where a quarter of
    the samples could not tell whether the budget holds. Samples that a pass was fitted to never measure it: on
    ResNet-18 pruned by half they show a quarter of what is lost on others.

    Raises:
        DataError: They cannot be read, or do not fit the model's inputs.
        UsageError: There is a budget, and nothing to check it on.
    """
    if not request.has_samples:
        if request.max_drop is not None and request.lossy:
            raise UsageError(
                f"a budget for {', '.join(request.lossy)} cannot be checked without data",
                where="--max-drop",
                hint="give samples with --data, or leave the budget out",
            )
        made = synthetic_samples(model, SYNTHETIC_SAMPLES, request.seed, session=session)
        return made, made
    calibration, validation = (
        None if source is None else open_samples(source, session.inputs, preprocess=request.preprocess)
        for source in (request.data, request.val)
    )
    if calibration is None:
        assert validation is not None
        return validation.split(SET_ASIDE, generator)
    if validation is None:
        return calibration.split(1 - set_aside(calibration.count, request.max_drop), generator)
    return calibration, validation


def set_aside(count: int, budget: float | None) -> float:
    """Return which share of `count` samples measures, such that they resolve the budget."""
    if budget is None or not count:
        return SET_ASIDE
    needed = RESOLVES / max(budget, 1e-9) / count
    return min(MOST_SET_ASIDE, max(SET_ASIDE, needed))
