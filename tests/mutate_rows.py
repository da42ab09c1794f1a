"""Splits a model with and without what `lowrank` finds out about its layers, and says what each way loses."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.lowrank import Lowrank
from story import make_context

from onnxslim.data import open_samples
from onnxslim.pipeline.interface import Goal
from onnxslim.runtime.session import Session


def lost_seeing_and_blind(
    before: ir.Model, step: Lowrank, finder: str, calibration: np.ndarray, held_out: np.ndarray
) -> tuple[float, float]:
    """Return the squared errors of the output ``y`` on held-out inputs ``x``: as the pass is, and without `finder`.

    Args:
        before: The model; not changed.
        step: The pass.
        finder: A function of `onnxslim.passes.lowrank.splitting` that then finds nothing.
        calibration: What the pass learns from.
        held_out: What measures.
    """
    samples = open_samples({"x": calibration}, Session.of(before).inputs)
    wanted = Session.of(before).run({"x": held_out})["y"]

    def lost() -> float:
        after = before.clone()
        context = make_context(before, samples, goal=Goal.SIZE)
        assert step.run(after, context).modified
        return float(np.square(wanted - Session.of(after).run({"x": held_out})["y"]).sum())

    seeing = lost()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"onnxslim.passes.lowrank.splitting.{finder}", lambda *_: {})
        return seeing, lost()
