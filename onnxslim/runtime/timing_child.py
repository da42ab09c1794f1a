"""The process in which `onnxslim.runtime.timing` runs models: one in blocks, or layers in turns, or node by node."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from onnxslim.errors import OnnxslimError, RunError
from onnxslim.ort import onnxruntime
from onnxslim.runtime.latency import run_block
from onnxslim.runtime.session import Session, Threading
from onnxslim.runtime.target import Target
from onnxslim.runtime.turns import profile_nodes, time_in_turns

MOST_TIMES = 2000
"""Times of single runs that are sent of one block: evenly picked where there were more."""
NAP = 0.002 if os.name == "posix" else 0.032
"""Seconds after which to look whether threads still spin; Windows counts the time of a process in ticks of 1/64 s."""
BUSY = 0.05
"""Share of one core that is no silence yet."""
LONGEST_SPIN = 1.0
"""Seconds after which to stop waiting for silence: something else works in this process."""


class Server:
    """Answers requests about a model, or about layers."""

    def __init__(self) -> None:
        self._call: Callable[[], None] | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked, wait until this process is silent, and return the answer.

        Raises:
            OnnxslimError: The model does not run.
        """
        kinds = {"open": self._open, "block": self._block, "layers": self._layers, "nodes": self._nodes}
        answer = kinds[request["do"]](request)
        wait_for_silence()
        return answer

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
        """Time layers in turns. They share their threads, which spin from one to the next as within a model."""
        threading = Threading.SLEEPING
        if hasattr(onnxruntime, "set_global_thread_pool_sizes"):  # since 1.23
            onnxruntime.set_global_thread_pool_sizes(int(request["threads"]), 1)
            threading = Threading.SHARED
        calls: dict[int, Callable[[], None]] = {}
        for index, layer in enumerate(request["layers"]):
            try:
                call = _session(layer, threading).prepare(_feeds(layer))
                call()
            except RunError:
                continue
            calls[index] = call
        times = dict(zip(calls, time_in_turns(list(calls.values())), strict=True))
        return {"times": [times.get(index) for index in range(len(request["layers"]))]}

    def _nodes(self, request: Mapping[str, Any]) -> dict[str, Any]:
        def open_session(profile: pathlib.Path) -> Session:
            return _session(request, Threading.SPINNING, profile)

        return {"times": profile_nodes(open_session, _feeds(request), int(request["runs"]))}


def _feeds(request: Mapping[str, Any]) -> dict[str, Any]:
    # Written by our parent into a folder that only this user may write to.
    return dict(pickle.loads(pathlib.Path(request["feeds"]).read_bytes()))


def _session(request: Mapping[str, Any], threading: Threading, profile: pathlib.Path | None = None) -> Session:
    return Session.of(
        pathlib.Path(request["model"]),
        Target(*request["target"]),
        profile=profile,
        threading=threading,
        weights_folder=request["weights"],
    )


def wait_for_silence(
    work: Callable[[], float] = time.process_time,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the threads of this process sleep: until it was silent twice in a row.

    Args:
        work: Tells the seconds that all threads of this process have worked.
        clock: Tells the time in seconds.
        sleep: Waits so many seconds.
    """
    end = clock() + LONGEST_SPIN
    silent = 0
    while silent < 2 and clock() < end:
        before = work()
        sleep(NAP)
        silent = silent + 1 if work() - before < BUSY * NAP else 0


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests, a JSON object per line, until there are no more."""
    server = Server()
    answers.write(json.dumps({"ready": True}) + "\n")
    answers.flush()
    for line in requests:
        try:
            answer = server.answer(json.loads(line))
        except OnnxslimError as error:
            answer = {"error": error.what}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve on standard input and output; what libraries print goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches us, too: end without a traceback
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
