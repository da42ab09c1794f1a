"""What ONNX Runtime runs for the nodes of a model, and how long each takes, from its profile."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import OPEN, RESPONSE, time_once, written_request
from onnxslim.runtime.turns import LOWER, time_in_turns

EVENT = "_kernel_time"
"""What the names of the events of a profile end with that tell how long a node takes."""
RUNS, WARM_UP = 30, 5
"""Number of runs, and of runs before the measurement."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What ONNX Runtime runs for one node, or for several that it fused."""

    name: str
    """Of the node in the graph that ONNX Runtime made of the model."""
    op_type: str
    provider: str
    """The execution provider that it belongs to."""
    inputs: tuple[str, ...]
    """The element types of its inputs, as ONNX names them."""
    outputs: tuple[str, ...]
    milliseconds: float
    """Time of one run: the lower quartile over the runs, without those of the warm-up."""

    @classmethod
    def of(cls, event: Mapping[str, Any], milliseconds: float) -> Kernel:
        """Read an event of ONNX Runtime's profile."""
        given = event.get("args", {})
        inputs, outputs = (_element_types(given.get(key, ())) for key in ("input_type_shape", "output_type_shape"))
        name, op_type = str(event["name"]).removesuffix(EVENT), str(given.get("op_name", ""))
        return cls(name, op_type, str(given.get("provider", "")), inputs, outputs, milliseconds)


def _element_types(entries: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(str(name) for entry in entries for name in entry)


def kernels(
    model: ir.Model, feeds: Mapping[str, Any], target: Target, runs: int = RUNS, optimized: pathlib.Path | None = None
) -> list[Kernel]:
    """Return what ONNX Runtime runs for `model`, with the time of each.

    Their sum is the time of an undisturbed run. On a busy machine whole runs are rarely undisturbed, but every node is
    in some of the runs. The model runs in a child process, on CUDA in this process; there nodes only enqueue their
    work, so their times mean little. The graph whose nodes they are is written to `optimized`.

    Raises:
        RunError: The model does not run on `feeds`, or the process that runs it failed.
    """
    if not target.facts.own_process:
        return profile_kernels(
            lambda profile: Session.of(model, target, profile=profile, optimized=optimized), feeds, runs
        )
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        request = written_request(model, feeds, target, pathlib.Path(folder))
        where = None if optimized is None else str(optimized)
        response = time_once({"do": "nodes", "runs": runs, "optimized": where, **request}, OPEN + RESPONSE * runs)
    return [
        Kernel(name, op_type, provider, tuple(inputs), tuple(outputs), float(milliseconds))
        for name, op_type, provider, inputs, outputs, milliseconds in response["kernels"]
    ]


def node_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target, runs: int = RUNS) -> dict[str, float]:
    """Return the milliseconds of each node of `model` after ONNX Runtime's optimizations, by name; see `kernels`.

    Raises:
        RunError: The model does not run on `feeds`, or the process that runs it failed.
    """
    return {kernel.name: kernel.milliseconds for kernel in kernels(model, feeds, target, runs)}


def quiet_milliseconds(model: ir.Model, feeds: Mapping[str, Any], target: Target) -> float:
    """Return the milliseconds of an undisturbed run: the sum of its nodes, on CUDA the whole run.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    if not target.facts.own_process:
        return time_in_turns([Session.of(model, target).prepare(feeds)])[0]
    return sum(node_milliseconds(model, feeds, target).values())


def profile_kernels(
    open_session: Callable[[pathlib.Path], Session], feeds: Mapping[str, Any], runs: int
) -> list[Kernel]:
    """Return the kernels of a model, in the order in which they run.

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
    first: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith(EVENT):
            times.setdefault(str(event["name"]), []).append(float(event["dur"]))
            first.setdefault(str(event["name"]), event)
    found: list[Kernel] = []
    for name, durations in times.items():
        # nodes of the same name, and nodes of a loop, execute several times per run: their sum counts
        repeats = max(1, len(durations) // (WARM_UP + runs))
        timed = len(durations) > WARM_UP * repeats
        rows = np.array(durations[WARM_UP * repeats :]) if timed else np.array(durations)
        found.append(Kernel.of(first[name], float(np.quantile(rows, LOWER)) * repeats / 1e3))
    return found
