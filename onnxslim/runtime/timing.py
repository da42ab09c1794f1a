"""Times models in processes of their own, each as a user's process that holds nothing but that model.

A process opens one model with ONNX Runtime's own options, so that its threads spin between runs as they do for users.
It runs a block when it is asked to, and answers when its threads have gone to sleep: two such processes take turns
without disturbing each other. On CUDA the models are timed in this process: blocks are all that is needed there, and a
device's memory should not hold a model twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import pickle
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.errors import RunError
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
from onnxslim.runtime.turns import time_in_turns

Source = ir.Model | pathlib.Path | Session
"""What can be timed: a model in memory, a file, or a session, which is timed in this process."""

ROLE = "the process that times the model"
START, OPEN, ANSWER = 120.0, 600.0, 60.0
"""Seconds that a process may take to start, to load the model and run it once, and to answer beyond its work."""
STARTS = 3
"""How often to start the processes of a pair, for a figure that goes into a report: from one start to the next a model
is a little faster or slower."""
SLACK = 20.0
"""How many times as long as was reckoned a block may take, on a machine that others use, before it is given up."""


class TimedProcess:
    """A model in a process of its own, to be timed in blocks. A context manager: at its end the process is gone.

    Args:
        model: A model in memory, which is written to a temporary folder (weights on disk stay where they are), or a
            file.
        feeds: As for `Session.run`.
        target: Where it runs.
        command: What the process runs.

    Raises:
        RunError: The process does not start.
    """

    def __init__(
        self,
        model: ir.Model | pathlib.Path,
        feeds: Mapping[str, Any],
        target: Target,
        command: Sequence[str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True)
        try:
            self._request = written_request(model, feeds, target, pathlib.Path(self._folder.name))
            self._child = Child(list(command or module_command("onnxslim.runtime.timing_child")), ROLE)
        except BaseException:
            self._folder.cleanup()
            raise
        self._run_seconds = 0.0

    def wait(self) -> None:
        """Wait until the process has started: what it imports must not disturb another that loads a model.

        Raises:
            RunError: It died, or takes too long.
        """
        self._child.receive(START)

    def open(self) -> ColdStart:
        """Load the model and run it once.

        Raises:
            RunError: The model does not run, or the process died, or takes too long.
        """
        self._child.send({"do": "open", **self._request})
        answer = self._child.receive(OPEN)
        self._folder.cleanup()
        self._run_seconds = float(answer["first_run_ms"]) / 1e3
        return ColdStart(float(answer["load_ms"]), float(answer["first_run_ms"]))

    def block(self, seconds: float) -> list[float]:
        """Run for about `seconds`; return how long single runs took, in seconds, the first ones left out.

        Raises:
            RunError: The model does not run any more, or the process died, or takes too long.
        """
        self._child.send({"do": "block", "seconds": seconds})
        work = max(seconds, (WARM_UP_RUNS + TIMED_RUNS) * self._run_seconds)
        return [float(each) for each in self._child.receive(ANSWER + SLACK * work)["times"]]

    def close(self) -> None:
        """End the process."""
        self._child.close()
        self._folder.cleanup()

    def __enter__(self) -> TimedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class TimedSession:
    """A session of this process, to be timed in blocks."""

    session: Session
    feeds: Mapping[str, Any]

    def block(self, seconds: float) -> list[float]:
        """Run for about `seconds`; return how long single runs took, in seconds, the first ones left out.

        Raises:
            RunError: The model does not run.
        """
        return run_block(self.session.prepare(self.feeds), seconds)


def written_request(
    model: ir.Model | pathlib.Path, feeds: Mapping[str, Any], target: Target, folder: pathlib.Path
) -> dict[str, Any]:
    """Write what a child needs into `folder`, and return where it lies (see `onnxslim.runtime.timing_child`)."""
    path, weights = (model.absolute(), None) if isinstance(model, pathlib.Path) else write_model(model, folder)
    with (folder / "feeds").open("wb") as file:
        pickle.dump(dict(feeds), file)
    return {
        "model": str(path),
        "weights": weights,
        "feeds": str(folder / "feeds"),
        "target": list(dataclasses.astuple(target)),
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
    """Measure two models in turns, block by block, on the same feeds.

    Args:
        before: The one model.
        after: The other; it takes the same inputs.
        feeds: As for `Session.run`.
        target: Where they run.
        generator: For the bootstrap of the ratio.
        seconds: About how long to measure both together; starting processes and loading come on top.
        starts: How often to start the processes anew meanwhile; where models run in this process, once.

    Raises:
        RunError: A model does not run, or the process that runs it failed.
    """
    groups: list[list[Pair]] = []
    cold: list[tuple[ColdStart | None, ...]] = []
    for _ in range(starts if _in_processes((before, after), target) else 1):
        with opened((before, after), feeds, target) as (timers, measured):
            groups.append(time_pairs(*timers, seconds=seconds / starts))
            cold.append(measured)
    one, other = (_median_start(column) for column in zip(*cold, strict=True))
    return compare_pairs(groups, generator, batch_size(feeds), (one, other))


def measure_latency(model: Source, feeds: Mapping[str, Any], target: Target, *, seconds: float = 1.0) -> Latency:
    """Measure one model alone; see `compare_latency`.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    with opened((model,), feeds, target) as ((timer,), (cold,)):
        return dataclasses.replace(measure_blocks(timer, batch=batch_size(feeds), seconds=seconds), cold=cold)


def cold_start(model: ir.Model | pathlib.Path, feeds: Mapping[str, Any], target: Target) -> ColdStart:
    """Return what a fresh process takes to load a model and to run it once.

    Python and ONNX Runtime were loaded, and the file was read, before.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    with TimedProcess(model, feeds, target) as process:
        process.wait()
        return process.open()


def _median_start(starts: Sequence[ColdStart | None]) -> ColdStart | None:
    known = [start for start in starts if start is not None]
    if not known:
        return None
    return ColdStart(
        statistics.median(start.load_ms for start in known), statistics.median(start.first_run_ms for start in known)
    )


def _in_processes(sources: Sequence[Source], target: Target) -> bool:
    return target.provider != "cuda" and not any(isinstance(source, Session) for source in sources)


def time_layers(layers: Sequence[tuple[ir.Model, Mapping[str, Any]]], target: Target) -> list[float | None]:
    """Return how long one run of each of several small models takes within a larger one, in milliseconds.

    They take turns in one process with one pool of threads, which spin from one to the next as they do from layer to
    layer of a model; see `onnxslim.runtime.turns.time_in_turns`. On CUDA they run in this process.

    Args:
        layers: Models with their feeds.
        target: Where they run.

    Returns:
        A time for each; None for one that does not run.

    Raises:
        RunError: The process that runs them failed.
    """
    if target.provider == "cuda":
        calls: dict[int, Callable[[], None]] = {}
        for index, (model, feeds) in enumerate(layers):
            with contextlib.suppress(RunError):
                call = Session.of(model, target).prepare(feeds)
                call()
                calls[index] = call
        times = dict(zip(calls, time_in_turns(list(calls.values())), strict=True))
        return [times.get(index) for index in range(len(layers))]
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        requests = []
        for index, (model, feeds) in enumerate(layers):
            place = pathlib.Path(folder) / str(index)
            place.mkdir()
            requests.append(written_request(model, feeds, target, place))
        answer = _ask({"do": "layers", "layers": requests, "threads": target.threads}, OPEN + ANSWER * len(layers))
    return [None if time is None else float(time) for time in answer["times"]]


def time_nodes(model: ir.Model, feeds: Mapping[str, Any], target: Target, runs: int) -> dict[str, float]:
    """Return the milliseconds of each node of a model that runs alone in a process; see `turns.profile_nodes`.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    with tempfile.TemporaryDirectory(prefix="onnxslim-", ignore_cleanup_errors=True) as folder:
        request = written_request(model, feeds, target, pathlib.Path(folder))
        answer = _ask({"do": "nodes", "runs": runs, **request}, OPEN + ANSWER * runs)
    return {str(name): float(time) for name, time in answer["times"].items()}


def _ask(request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Start a process, ask it once, and end it."""
    with Child(module_command("onnxslim.runtime.timing_child"), ROLE) as child:
        child.receive(START)
        child.send(request)
        return child.receive(timeout)


@contextlib.contextmanager
def opened(
    sources: Sequence[Source], feeds: Mapping[str, Any], target: Target
) -> Iterator[tuple[tuple[BlockTimer, ...], tuple[ColdStart | None, ...]]]:
    """Open models for timing, each alone in a process; on CUDA, and for sessions, in this one.

    Yields:
        The models, and the cold starts of those that got a process.

    Raises:
        RunError: A model does not run, or the process that runs it failed.
    """
    with contextlib.ExitStack() as stack:
        timers: list[BlockTimer] = []
        for source in sources:
            if isinstance(source, Session):
                timers.append(TimedSession(source, feeds))
            elif target.provider == "cuda":
                timers.append(TimedSession(Session.of(source, target), feeds))
            else:
                timers.append(stack.enter_context(TimedProcess(source, feeds, target)))
        for timer in timers:
            if isinstance(timer, TimedProcess):
                timer.wait()
        cold = [timer.open() if isinstance(timer, TimedProcess) else None for timer in timers]
        yield tuple(timers), tuple(cold)
