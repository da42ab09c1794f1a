"""Tells how much a rewritten model changes the outputs before anything is quantized: it must not change them."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.observe.probe import run_on
from onnxslim.observe.sensitivity import OutputDeviation
from onnxslim.pipeline.interface import Context

EXACT = 1e-8
"""The share of the energy of the outputs by which they may change in float: rounding in single precision leaves less
than a thousandth of it."""
SAMPLES = 4
"""Samples that this is seen on."""


def deviation(before: ir.Model, after: ir.Model, samples: Samples, context: Context) -> float:
    """Return the energy of the difference of the outputs of two models on few samples, as a share of theirs.

    Raises:
        RunError: A model does not run on them.
    """
    few = samples.draw(SAMPLES, np.random.default_rng(context.seed))
    error = OutputDeviation.on(before, few, context.open_session, context.samples)
    return error(functools.partial(run_on, context.open_session(after)))
