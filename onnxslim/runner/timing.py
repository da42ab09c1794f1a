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
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.runner.child import Child, module_command
from onnxslim.runner.latency import (
    TIMED_RUNS,
    WARM_UP_RUNS,
    BlockTimer,
    ColdStart,
    Latency,
    PairedLatency,
    batch_size,
    compare_blocks,
    measure_blocks,
    run_block,
)
from onnxslim.runner.session import Session, write_model
from onnxslim.runner.target import Target

Source = ir.Model | pathlib.Path | Session
"""What can be timed: a model in memory, a file, or a session, which is timed in this process."""

ROLE = "the process that times the model"
START, OPEN, ANSWER = 120.0, 600.0, 60.0
"""Seconds that a process may take to start, to load the model and run it once, and to answer beyond its work."""
COLD_STARTS, COLD_SECONDS = 3, 2.0
"""Fresh processes that are started to measure a cold start, and seconds after which no other is."""
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
            self._child = Child(list(command or module_command("onnxslim.runner.timing_child")), ROLE)
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
    """Write what a child needs into `folder`, and return where it lies (see `onnxslim.runner.timing_child`)."""
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
) -> PairedLatency:
    """Measure two models in turns, block by block, on the same feeds.

    Args:
        before: The one model.
        after: The other; it takes the same inputs.
        feeds: As for `Session.run`.
        target: Where they run.
        generator: For the bootstrap of the ratio.
        seconds: About how long to measure both together; starting processes and loading come on top.

    Raises:
        RunError: A model does not run, or the process that runs it failed.
    """
    with opened((before, after), feeds, target) as (one, other):
        return compare_blocks(one, other, generator=generator, batch=batch_size(feeds), seconds=seconds)


def measure_latency(model: Source, feeds: Mapping[str, Any], target: Target, *, seconds: float = 1.0) -> Latency:
    """Measure one model alone; see `compare_latency`.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    with opened((model,), feeds, target) as (timer,):
        return measure_blocks(timer, batch=batch_size(feeds), seconds=seconds)


def cold_start(model: ir.Model | pathlib.Path, feeds: Mapping[str, Any], target: Target) -> ColdStart:
    """Return what a fresh process takes to load a model and to run it once: medians over a few processes.

    One process where that takes long; Python and ONNX Runtime are loaded, and the file was read, before.

    Raises:
        RunError: The model does not run, or the process that runs it failed.
    """
    starts: list[ColdStart] = []
    begin = time.perf_counter()
    while not starts or (len(starts) < COLD_STARTS and time.perf_counter() - begin < COLD_SECONDS):
        with TimedProcess(model, feeds, target) as process:
            process.wait()
            starts.append(process.open())
    loads, runs = ([getattr(start, key) for start in starts] for key in ("load_ms", "first_run_ms"))
    return ColdStart(statistics.median(loads), statistics.median(runs))


@contextlib.contextmanager
def opened(sources: Sequence[Source], feeds: Mapping[str, Any], target: Target) -> Iterator[tuple[BlockTimer, ...]]:
    """Open models for timing, each alone in a process; on CUDA, and for sessions, in this one.

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
        processes = [timer for timer in timers if isinstance(timer, TimedProcess)]
        for process in processes:
            process.wait()
        for process in processes:
            process.open()
        yield tuple(timers)
