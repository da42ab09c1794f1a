"""Times of single nodes within a run of the whole model, from ONNX Runtime's profile."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import OPEN, RESPONSE, time_once, written_request
from onnxslim.runtime.turns import LOWER, time_in_turns

RUNS, WARM_UP = 30, 5
"""Number of runs, and of runs before the measurement."""


def node_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target, runs: int = RUNS) -> dict[str, float]:
    """Return the milliseconds of each node of `model` after ONNX Runtime's optimizations, by name.

    Their sum is the time of an undisturbed run. On a busy machine whole runs are rarely undisturbed, but every node is
    in some of the runs. The model runs in a child process, on CUDA in this process; there nodes only enqueue their
    work, so their times mean little.

    Raises:
        RunError: The model does not run on `feeds`, or the process that runs it failed.
    """
    if not target.facts.own_process:
        return profile_nodes(lambda profile: Session.of(model, target, profile=profile), feeds, runs)
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        request = written_request(model, feeds, target, pathlib.Path(folder))
        response = time_once({"do": "nodes", "runs": runs, **request}, OPEN + RESPONSE * runs)
    return {str(name): float(time) for name, time in response["times"].items()}


def quiet_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target) -> float:
    """Return the milliseconds of an undisturbed run: the sum of its nodes, on CUDA the whole run.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    if not target.facts.own_process:
        return time_in_turns([Session.of(model, target).prepare(feeds)])[0]
    return sum(node_milliseconds(model, feeds, target).values())


def profile_nodes(
    open_session: Callable[[pathlib.Path], Session], feeds: Mapping[str, Any], runs: int
) -> dict[str, float]:
    """Return the milliseconds of each node of a model: the lower quartile over its runs, those of the warm-up apart.

    `open_session` opens the model with the given prefix of profile files.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        session = open_session(pathlib.Path(folder) / "profile")
        call = session.prepare(feeds)
        for _ in range(WARM_UP + runs):
            call()
        events = json.loads(session.end_profile().read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            times.setdefault(str(event["name"]).removesuffix("_kernel_time"), []).append(float(event["dur"]))
    result: dict[str, float] = {}
    for name, durations in times.items():
        # nodes of the same name, and nodes of a loop, execute several times per run: their sum counts
        repeats = max(1, len(durations) // (WARM_UP + runs))
        timed = len(durations) > WARM_UP * repeats
        rows = np.array(durations[WARM_UP * repeats :]) if timed else np.array(durations)
        result[name] = float(np.quantile(rows, LOWER)) * repeats / 1e3
    return result
