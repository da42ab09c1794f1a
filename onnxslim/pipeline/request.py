"""Reads a request: what is asked for, on which samples, and whether the result can be written at all."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.data import Samples, open_samples, synthetic_samples
from onnxslim.errors import BadOptionValue, UsageError
from onnxslim.pipeline.interface import Kind, Pass
from onnxslim.pipeline.schedule import schedule
from onnxslim.recipe import Recipe, load_recipe, parse_passes
from onnxslim.runner.session import Session

SET_ASIDE = 0.25
"""The share of `data` that measures where no `val` is given."""
SYNTHETIC_SAMPLES = 8
DEFAULT_PASSES = "simplify"

Data = str | os.PathLike[str] | Mapping[str, np.ndarray[Any, Any]] | Samples


def read_request(
    passes: str | Sequence[Pass | str] | None,
    recipe: str | os.PathLike[str] | None,
    max_drop: float | None,
    seed: int | None,
    as_written: bool,
) -> Recipe:
    """Return what is asked for: arguments first, then the recipe, then the defaults."""
    written = Recipe(()) if recipe is None else load_recipe(pathlib.Path(recipe))
    chosen = written.passes or DEFAULT_PASSES if passes is None else passes
    each_asked = [chosen] if isinstance(chosen, str) else list(chosen)
    steps = [step for each in each_asked for step in (parse_passes(each) if isinstance(each, str) else (each,))]
    if not steps:
        raise UsageError("no pass is asked for", where="-p", hint="name one, or leave it out for simplify")
    drop = written.max_drop if max_drop is None else max_drop
    if drop is not None and not 0 <= drop <= 1:
        raise BadOptionValue(
            f"the budget cannot be {drop}", where="--max-drop", hint="a fraction from 0 to 1: 0.01 is one point"
        )
    number = written.seed or 0 if seed is None else seed
    if number < 0:
        raise BadOptionValue(f"the seed cannot be {number}", where="--seed", hint="0 or more")
    return Recipe(schedule(steps, as_written=as_written), drop, number)


def share_samples(
    data: Data | None,
    val: Data | None,
    model: ir.Model,
    session: Session,
    preprocess: str | None,
    request: Recipe,
    generator: np.random.Generator,
) -> tuple[Samples, Samples]:
    """Return the samples that calibrate and those that measure; no sample does both, but for synthetic ones.

    Where one of the two is missing a quarter of the other takes its place.

    Args:
        data: What calibrates, or None.
        val: What measures, or None.
        model: The original, for synthetic samples.
        session: The original, opened.
        preprocess: How images become inputs, or None.
        request: What is asked for; its seed makes synthetic samples.
        generator: Draws the quarter.

    Raises:
        DataError: They cannot be read, or do not fit the model's inputs.
        UsageError: There is a budget, and nothing to check it on.
    """
    if data is None and val is None:
        lossy = [step.name for step in request.passes if step.judged_as is Kind.LOSSY]
        if request.max_drop is not None and lossy:
            raise UsageError(
                f"a budget for {', '.join(lossy)} cannot be checked without data",
                where="--max-drop",
                hint="give samples with --data, or leave the budget out",
            )
        made = synthetic_samples(model, SYNTHETIC_SAMPLES, request.seed or 0, session=session)
        return made, made
    if data is not None and val is not None:
        calibration = open_samples(data, session.inputs, preprocess=preprocess)
        return calibration, open_samples(val, session.inputs, preprocess=preprocess)
    given, share = (data, 1 - SET_ASIDE) if val is None else (val, SET_ASIDE)
    assert given is not None
    return open_samples(given, session.inputs, preprocess=preprocess).split(share, generator)
