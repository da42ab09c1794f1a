"""Times of single nodes within a run of the whole model, from ONNX Runtime's profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import time_nodes
from onnxslim.runtime.turns import profile_nodes, time_in_turns

RUNS = 30
"""Number of runs."""


def node_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target, runs: int = RUNS) -> dict[str, float]:
    """Return the milliseconds of each node of `model` after ONNX Runtime's optimizations.

    Their sum is the time of an undisturbed run. On a busy machine whole runs are rarely undisturbed, but every node is
    in some of the runs. The model runs in a child process, on CUDA in this process.

    Args:
        model: The model.
        feeds: As for `Session.run`.
        target: Target of the run. On CUDA nodes only enqueue their work, so their times mean little.
        runs: Number of runs.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    if not target.facts.own_process:
        return profile_nodes(lambda profile: Session.of(model, target, profile=profile), feeds, runs)
    return time_nodes(model, feeds, target, runs)


def quiet_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target) -> float:
    """Return the milliseconds of an undisturbed run: the sum of its nodes, on CUDA the whole run.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    if not target.facts.own_process:
        return time_in_turns([Session.of(model, target).prepare(feeds)])[0]
    return sum(node_milliseconds(model, feeds, target).values())
