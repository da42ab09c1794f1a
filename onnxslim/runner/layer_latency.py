"""How long layers take by themselves on the target: measured in turns, and remembered for the next run."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.errors import RunError
from onnxslim.runner.cache import Cache
from onnxslim.runner.latency import Clock
from onnxslim.runner.layer import Layer, Step, Tensor
from onnxslim.runner.session import Session
from onnxslim.runner.target import Target
from onnxslim.runtime import onnxruntime

FORMAT = 2
"""Goes up when times are measured in another way, so that those of before are not taken for the same."""

ROUNDS, FEWEST = 40, 5
"""Runs of each layer, and of one that is slow."""
LONGEST = 0.5
"""Seconds after which a layer is slow."""
LOWER = 0.25
"""The quantile of the times that counts. What else the machine does only ever adds; the very least is luck."""
TOGETHER, TOGETHER_BYTES = 64, 512_000_000
"""Layers, and bytes of their weights, that take turns at once."""


NOTHING = Layer((Step(("", "Identity"), (Tensor((1,)),)),))
"""A layer that does nothing: what a run costs in any case."""


class LayerTimes:
    """Measures layers, each once for one machine.

    What is measured is kept in memory and in the user's cache folder (`onnxslim.runner.cache`), under the version of
    ONNX Runtime, the execution provider, the device, its instruction set and the threads.

    Args:
        target: Where the layers run.
        open_session: Opens a model on the target; None: `Session.of`.
        folder: Where to keep times; None: the user's cache folder.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        target: Target,
        open_session: Callable[[ir.Model], Session] | None = None,
        *,
        folder: pathlib.Path | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        circumstances: dict[str, str | int] = {
            "format": FORMAT,
            "onnxruntime": onnxruntime.__version__,
            "provider": target.provider,
            "device": target.device,
            "instruction_set": target.instruction_set,
            "threads": target.threads,
        }
        self._cache = Cache("layers", circumstances, folder)
        self._open = open_session or (lambda model: Session.of(model, target))
        self._clock = clock
        self._refused: set[str] = set()
        self.measured = 0
        """Layers that were measured and not remembered."""

    def milliseconds(
        self, layers: Sequence[Layer], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[float | None]:
        """Return how long one run of each layer takes, in milliseconds; None for one that does not run by itself.

        Layers that are not known yet are measured in turns, so that whatever else the machine does hits all of them.
        Give all that are to be compared at once.

        Args:
            layers: What to time; equal layers are measured once.
            progress: Told how many of how many layers that are not known yet are done.
        """
        keys = [layer.key() for layer in layers]
        wanted = {
            key: layer
            for key, layer in zip(keys, layers, strict=True)
            if self._cache.get(key) is None and key not in self._refused
        }
        done = 0
        for part in _parts(wanted):
            self._cache.update(self._measure(part))
            done += len(part)
            progress(done, len(wanted))
        return [self._cache.get(key) for key in keys]

    def _measure(self, layers: dict[str, Layer]) -> dict[str, float]:
        calls: dict[str, Callable[[], None]] = {}
        for key, layer in layers.items():
            model, feeds = layer.model()
            try:
                call = self._open(model).prepare(feeds)
                call()
            except RunError:
                self._refused.add(key)
                continue
            calls[key] = call
        self.measured += len(calls)
        return dict(zip(calls, time_in_turns(list(calls.values()), self._clock), strict=True))


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


def _parts(layers: dict[str, Layer]) -> Iterator[dict[str, Layer]]:
    """Share the layers out into parts that fit into memory."""
    part: dict[str, Layer] = {}
    for key, layer in layers.items():
        if part and (
            len(part) == TOGETHER or sum(each.nbytes for each in part.values()) + layer.nbytes > TOGETHER_BYTES
        ):
            yield part
            part = {}
        part[key] = layer
    if part:
        yield part
