"""Times several calls of one process in turns, and the nodes of a model by ONNX Runtime's own profile."""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxslim.runtime.latency import Clock
from onnxslim.runtime.session import Session

ROUNDS, FEWEST = 40, 5
"""Runs of each call, and of one that is slow."""
LONGEST = 0.5
"""Seconds after which a call is slow."""
LOWER = 0.25
"""The quantile of the times that counts. What else the machine does only ever adds; the very least is luck."""
WARM_UP = 5
"""Runs of a model that are not looked at."""


def time_in_turns(calls: Sequence[Callable[[], None]], clock: Clock = time.perf_counter) -> list[float]:
    """Return how long each of several calls takes, in milliseconds: the lower quartile of single runs, in turns.

    In turns, so that what else the machine does hits all of them, and so that each finds the caches as within a model:
    full of what others have read. Repeated at once, a layer of 10 MB of weights runs up to twice as fast as it ever
    will.

    Raises:
        RunError: A call fails.
    """
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(ROUNDS):
        # Forwards and backwards, so that none always runs after the same one.
        for at in range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls))):
            if turn < FEWEST or sum(times[at]) < LONGEST:
                start = clock()
                calls[at]()
                times[at].append(clock() - start)
    return [float(np.quantile(each, LOWER)) * 1e3 for each in times]


def profile_nodes(
    open_session: Callable[[pathlib.Path], Session], feeds: Mapping[str, Any], runs: int
) -> dict[str, float]:
    """Return the milliseconds of each node of a model: the lower quartile over its runs.

    Args:
        open_session: Opens the model; it is told what the names of the files of its profile begin with.
        feeds: As for `Session.run`.
        runs: How often to run it, after those that warm up.

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
    for name, each in times.items():
        # Nodes of one name, and those of a loop, run several times in a run: what counts is their sum.
        repeats = max(1, len(each) // (WARM_UP + runs))
        rows = np.array(each[WARM_UP * repeats :]) if len(each) > WARM_UP * repeats else np.array(each)
        result[name] = float(np.quantile(rows, LOWER)) * repeats / 1e3
    return result
