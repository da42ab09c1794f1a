"""How long each node takes while the whole model runs, as ONNX Runtime tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import time_nodes
from onnxslim.runtime.turns import profile_nodes, time_in_turns

RUNS = 30
"""Runs that are looked at."""


def node_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target, runs: int = RUNS) -> dict[str, float]:
    """Return the milliseconds of each node of `model`, as ONNX Runtime rewrote it.

    Their sum is what a run takes where nothing comes in between. A whole run is seldom that lucky on a busy machine;
    each node is, in some runs. The model runs in a process of its own, on CUDA in this one.

    Args:
        model: The model.
        feeds: As for `Session.run`.
        target: Where it runs. On CUDA the nodes only hand over their work, and the times say little.
        runs: How often to run it.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    if target.provider == "cuda":
        return profile_nodes(lambda profile: Session.of(model, target, profile=profile), feeds, runs)
    return time_nodes(model, feeds, target, runs)


def quiet_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target) -> float:
    """Return how long a run takes where nothing else runs: the sum of its nodes, on CUDA the run as a whole.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    if target.provider == "cuda":
        return time_in_turns([Session.of(model, target).prepare(feeds)])[0]
    return sum(node_milliseconds(model, feeds, target).values())
