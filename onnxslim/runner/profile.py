"""How long each node takes while the whole model runs, as ONNX Runtime tells."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.runner.layer_latency import time_in_turns
from onnxslim.runner.session import Session
from onnxslim.runner.target import Target

RUNS = 30
"""Runs that are looked at; the first few are not."""
WARM_UP = 5
LOWER = 0.25
"""The quantile of the times of a node that counts. What else the machine does only ever adds."""


def node_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target, runs: int = RUNS) -> dict[str, float]:
    """Return the milliseconds of each node of `model`, as ONNX Runtime rewrote it.

    Their sum is what a run takes where nothing comes in between. A whole run is seldom that lucky on a busy machine;
    each node is, in some runs.

    Args:
        model: The model.
        feeds: As for `Session.run`.
        target: Where it runs. On CUDA the nodes only hand over their work, and the times say little.
        runs: How often to run it.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        session = Session.of(model, target, profile=pathlib.Path(folder) / "profile")
        call: Callable[[], None] = session.prepare(feeds)
        for _ in range(WARM_UP + runs):
            call()
        events = json.loads(session.end_profile().read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            times.setdefault(str(event["name"]).removesuffix("_kernel_time"), []).append(float(event["dur"]))
    result: dict[str, float] = {}
    for name, each in times.items():
        # Nodes of one name, and those of a loop, run several times in a run: what counts is their sum.
        repeats = max(1, len(each) // (WARM_UP + runs))
        rows = np.array(each[WARM_UP * repeats :]) if len(each) > WARM_UP * repeats else np.array(each)
        result[name] = float(np.quantile(rows, LOWER)) * repeats / 1e3
    return result


def quiet_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target) -> float:
    """Return how long a run takes where nothing else runs: the sum of its nodes, on CUDA the run as a whole.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    if target.provider == "cuda":
        return time_in_turns([Session.of(model, target).prepare(feeds)])[0]
    return sum(node_milliseconds(model, feeds, target).values())
