"""The child process of `onnxslim.runtime.timing`: times a model in blocks, layers in turns, or single nodes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from onnxslim.errors import OnnxslimError
from onnxslim.ort import onnxruntime
from onnxslim.runtime.latency import run_block
from onnxslim.runtime.profile import profile_kernels
from onnxslim.runtime.session import Session, Threading
from onnxslim.runtime.target import Target
from onnxslim.runtime.turns import Turns, time_those_that_run

MOST_TIMES = 2000
"""Maximum of the times that are returned for a block; more are thinned out evenly."""
NAP = 0.002 if os.name == "posix" else 0.032
"""Interval in seconds at which CPU time is read; Windows updates it every 1/64 s."""
BUSY = 0.05
"""Share of one core from which the process counts as busy."""
LONGEST_SPIN = 1.0
"""Limit of the wait for idle threads, in seconds."""


class Server:
    """Handles timing requests for a model or for layers."""

    def __init__(self) -> None:
        self._call: Callable[[], None] | None = None

    def handle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Handle a request, wait until all threads of this process are idle, and return the response.

        Raises:
            OnnxslimError: The model does not run.
        """
        kinds = {"open": self._open, "block": self._block, "layers": self._layers, "nodes": self._nodes}
        response = kinds[request["do"]](request)
        wait_until_idle()
        return response

    def _open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        feeds = _feeds(request)
        start = time.perf_counter()
        session = _session(request, Threading.SPINNING)
        loaded = time.perf_counter()
        self._call = session.prepare(feeds)
        self._call()
        end = time.perf_counter()
        return {"load_ms": (loaded - start) * 1e3, "first_run_ms": (end - loaded) * 1e3}

    def _block(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._call is not None
        times = run_block(self._call, float(request["seconds"]))
        step = -(-len(times) // MOST_TIMES)
        return {"times": times[::step]}

    def _layers(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Time layers in turns, with one pool of threads, which spin from layer to layer as within a model."""
        threading = Threading.SLEEPING
        if hasattr(onnxruntime, "set_global_thread_pool_sizes"):  # since 1.23
            onnxruntime.set_global_thread_pool_sizes(int(request["threads"]), 1)
            threading = Threading.SHARED

        def prepare(layer: Mapping[str, Any]) -> Callable[[], None]:
            return _session(layer, threading).prepare(_feeds(layer))

        return {"times": time_those_that_run(prepare, request["layers"], Turns(*request["turns"]))}

    def _nodes(self, request: Mapping[str, Any]) -> dict[str, Any]:
        optimized = request.get("optimized")

        def open_session(profile: pathlib.Path) -> Session:
            return _session(
                request, Threading.SPINNING, profile, None if optimized is None else pathlib.Path(optimized)
            )

        kernels = profile_kernels(open_session, _feeds(request), int(request["runs"]))
        return {"kernels": [dataclasses.astuple(kernel) for kernel in kernels]}


def _feeds(request: Mapping[str, Any]) -> dict[str, Any]:
    # written by the parent process into a folder that only this user may write to
    return dict(pickle.loads(pathlib.Path(request["feeds"]).read_bytes()))


def _session(
    request: Mapping[str, Any],
    threading: Threading,
    profile: pathlib.Path | None = None,
    optimized: pathlib.Path | None = None,
) -> Session:
    return Session.of(
        pathlib.Path(request["model"]),
        Target(*request["target"]),
        profile=profile,
        optimized=optimized,
        threading=threading,
        weights_folder=request["weights"],
    )


def others_runnable(tasks: pathlib.Path = pathlib.Path("/proc/self/task")) -> bool:
    """Whether another thread of this process runs or waits for a core, as Linux tells (proc(5)); elsewhere False."""
    own = str(threading.get_native_id())
    for task in tasks.iterdir() if tasks.exists() else ():
        with contextlib.suppress(OSError):  # it has ended
            if task.name != own and (task / "stat").read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


def wait_until_idle(
    work: Callable[[], float] = time.process_time,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    runnable: Callable[[], bool] = others_runnable,
) -> None:
    """Wait until the threads of this process, whose CPU time is `work()`, sleep: until it was idle twice in a row.

    On a busy machine a thread that spins may wait for a core, and works as little as one that sleeps: `runnable()`
    tells them apart.
    """
    end = clock() + LONGEST_SPIN
    idle = 0
    while idle < 2 and clock() < end:
        before = work()
        sleep(NAP)
        idle = idle + 1 if work() - before < BUSY * NAP and not runnable() else 0


def serve(requests: TextIO, responses: TextIO) -> None:
    """Handle requests, one JSON object per line, until the end of the input."""
    server = Server()
    responses.write(json.dumps({"ready": True}) + "\n")
    responses.flush()
    for line in requests:
        try:
            response = server.handle(json.loads(line))
        except OnnxslimError as error:
            response = {"error": error.what}
        responses.write(json.dumps(response) + "\n")
        responses.flush()


def main() -> None:
    """Serve on standard input and output; output of libraries goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C also reaches the child: end without a traceback
    responses = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, responses)


if __name__ == "__main__":
    main()
