"""Times models in child processes, each like a user's process with a single model.

A child opens one model with ONNX Runtime's default options, so its threads spin between runs as they do for users. It
runs a block on request, and responds when its threads sleep, so two such processes alternate without disturbing each
other. On CUDA models are timed in this process: blocks suffice there, and a model should not occupy the device's memory
twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import pickle
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.runtime.child import Child, module_command
from onnxslim.runtime.latency import (
    TIMED_RUNS,
    WARM_UP_RUNS,
    BlockTimer,
    ColdStart,
    Latency,
    Pair,
    PairedLatency,
    batch_size,
    compare_pairs,
    measure_blocks,
    run_block,
    time_pairs,
)
from onnxslim.runtime.session import Session, write_model
from onnxslim.runtime.target import Target
from onnxslim.runtime.turns import OF_LAYERS, OF_MODELS, Turns, time_those_that_run

Source = ir.Model | pathlib.Path | Session
"""A model in memory, a file, or a session, which is timed in this process."""

CHILD, ROLE = "onnxslim.runtime.timing_child", "the process that times the model"
START, OPEN, RESPONSE = 120.0, 600.0, 60.0
"""Time limits in seconds: to start a child, to load the model and run it once, and to respond beyond the work."""
STARTS = 3
"""Number of starts of the processes of a pair for figures of reports, since the speed differs a little from start to
start."""
SLACK = 20.0
"""Factor by which a block may exceed its predicted time on a busy machine before it is given up."""


class TimedProcess:
    """A model in a child process, timed in blocks; `timed_process` starts it."""

    def __init__(self, child: Child, request: Mapping[str, Any]) -> None:
        self._child, self._request = child, request
        self._run_seconds = 0.0

    def wait(self) -> None:
        """Wait until the process has started, so that its imports do not disturb another process.

        Raises:
            RunError: The process ended, or takes too long.
        """
        self._child.receive(START)

    def open(self) -> ColdStart:
        """Load the model and run it once.

        Raises:
            RunError: The model does not run, or the process ended or takes too long.
        """
        self._child.send({"do": "open", **self._request})
        response = self._child.receive(OPEN)
        self._run_seconds = float(response["first_run_ms"]) / 1e3
        return ColdStart(float(response["load_ms"]), float(response["first_run_ms"]))

    def block(self, seconds: float) -> list[float]:  # noqa: D102  the protocol says it
        self._child.send({"do": "block", "seconds": seconds})
        work = max(seconds, (WARM_UP_RUNS + TIMED_RUNS) * self._run_seconds)
        return [float(time) for time in self._child.receive(RESPONSE + SLACK * work)["times"]]


@contextlib.contextmanager
def timed_process(model: ir.Model | pathlib.Path, feeds: Mapping[str, Any], target: Target) -> Iterator[TimedProcess]:
    """Start the process that times a model, and end it afterwards.

    Raises:
        RunError: The process does not start.
    """
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        request = written_request(model, feeds, target, pathlib.Path(folder))
        with Child(module_command(CHILD), ROLE) as child:
            yield TimedProcess(child, request)


@dataclasses.dataclass(frozen=True)
class TimedSession:
    """A session of this process, timed in blocks."""

    session: Session
    feeds: Mapping[str, Any]

    def block(self, seconds: float) -> list[float]:  # noqa: D102  the protocol says it
        return run_block(self.session.prepare(self.feeds), seconds)


def written_request(
    model: ir.Model | pathlib.Path, feeds: Mapping[str, Any], target: Target, folder: pathlib.Path
) -> dict[str, Any]:
    """Write model and feeds into `folder`, and return the request for `onnxslim.runtime.timing_child`."""
    path, weights = (model.absolute(), None) if isinstance(model, pathlib.Path) else write_model(model, folder)
    with (folder / "feeds").open("wb") as file:
        pickle.dump(dict(feeds), file)
    return {
        "model": str(path),
        "weights": weights,
        "feeds": str(folder / "feeds"),
        "target": dataclasses.astuple(target),
    }


def compare_latency(
    before: Source,
    after: Source,
    feeds: Mapping[str, Any],
    target: Target,
    *,
    generator: np.random.Generator,
    seconds: float = 2.0,
    starts: int = 1,
) -> PairedLatency:
    """Return the paired latency of two models, measured in alternating blocks on the same feeds.

    It takes about `seconds` for both together, without starting processes and loading. The processes are started anew
    `starts` times; models that run in this process are started once. `generator` draws the bootstrap of the ratio.

    Raises:
        RunError: A model does not run, or the process that runs it failed.
    """
    groups: list[list[Pair]] = []
    cold: list[tuple[ColdStart | None, ...]] = []
    in_processes = target.facts.own_process and not any(isinstance(source, Session) for source in (before, after))
    rounds = starts if in_processes else 1
    for _ in range(rounds):
        with opened((before, after), feeds, target) as (timers, measured):
            groups.append(time_pairs(*timers, seconds=seconds / rounds))
            cold.append(measured)
    first, second = (_median_start(column) for column in zip(*cold, strict=True))
    return compare_pairs(groups, generator, batch_size(feeds), (first, second))


def measure_latency(model: Source, feeds: Mapping[str, Any], target: Target, *, seconds: float = 1.0) -> Latency:
    """Return the latency of a single model; see `compare_latency`.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    with opened((model,), feeds, target) as ((timer,), (cold,)):
        return dataclasses.replace(measure_blocks(timer, batch=batch_size(feeds), seconds=seconds), cold=cold)


def cold_start(model: ir.Model | pathlib.Path, feeds: Mapping[str, Any], target: Target) -> ColdStart:
    """Return the time of a fresh process to load a model and to run it once.

    Python and ONNX Runtime are loaded, and the file is in the page cache.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    with timed_process(model, feeds, target) as process:
        process.wait()
        return process.open()


def _median_start(starts: Sequence[ColdStart | None]) -> ColdStart | None:
    known = [start for start in starts if start is not None]
    if not known:
        return None
    return ColdStart(
        statistics.median(start.load_ms for start in known), statistics.median(start.first_run_ms for start in known)
    )


def time_layers(layers: Sequence[tuple[ir.Model, Mapping[str, Any]]], target: Target) -> list[float | None]:
    """Return the milliseconds of one run of small models as parts of a larger one; None for one that does not run.

    They take turns in one process with one pool of threads, which spin from model to model as from layer to layer of a
    larger model; see `onnxslim.runtime.turns.time_in_turns`. On CUDA they run in this process.

    Raises:
        RunError: The child process failed.
    """
    return _time_in_turns(layers, target, OF_LAYERS)


def time_models(models: Sequence[tuple[ir.Model, Mapping[str, Any]]], target: Target) -> list[float | None]:
    """Return the milliseconds of one run of models of which the fastest is wanted: as `time_layers` does, but longer.

    Raises:
        RunError: The child process failed.
    """
    return _time_in_turns(models, target, OF_MODELS)


def _time_in_turns(
    models: Sequence[tuple[ir.Model, Mapping[str, Any]]], target: Target, turns: Turns
) -> list[float | None]:
    if not target.facts.own_process:
        return time_those_that_run(lambda own: Session.of(own[0], target).prepare(own[1]), models, turns)
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        requests = []
        for index, (model, feeds) in enumerate(models):
            subfolder = pathlib.Path(folder) / str(index)
            subfolder.mkdir()
            requests.append(written_request(model, feeds, target, subfolder))
        request = {
            "do": "layers",
            "layers": requests,
            "threads": target.threads,
            "turns": dataclasses.astuple(turns),
        }
        response = time_once(request, OPEN + RESPONSE * len(models))
    return [None if time is None else float(time) for time in response["times"]]


def time_once(request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Return the response of a child process to a single request.

    Raises:
        RunError: The process failed, or takes longer than `timeout`, in seconds.
    """
    with Child(module_command(CHILD), ROLE) as child:
        child.receive(START)
        child.send(request)
        return child.receive(timeout)


@contextlib.contextmanager
def opened(
    sources: Sequence[Source], feeds: Mapping[str, Any], target: Target
) -> Iterator[tuple[tuple[BlockTimer, ...], tuple[ColdStart | None, ...]]]:
    """Open models for timing, each in a child process; on CUDA, and for sessions, in this process.

    Yields:
        The models, and the cold starts of those in child processes.

    Raises:
        RunError: A model does not run, or the process that runs it failed.
    """
    with contextlib.ExitStack() as stack:
        timers: list[BlockTimer] = []
        for source in sources:
            if isinstance(source, Session):
                timers.append(TimedSession(source, feeds))
            elif not target.facts.own_process:
                timers.append(TimedSession(Session.of(source, target), feeds))
            else:
                timers.append(stack.enter_context(timed_process(source, feeds, target)))
        for timer in timers:
            if isinstance(timer, TimedProcess):
                timer.wait()
        cold = [timer.open() if isinstance(timer, TimedProcess) else None for timer in timers]
        yield tuple(timers), tuple(cold)
