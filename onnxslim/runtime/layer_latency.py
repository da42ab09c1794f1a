"""How long layers take by themselves on the target: measured in turns, and remembered for the next run."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxslim.ort import onnxruntime
from onnxslim.runtime.cache import Cache
from onnxslim.runtime.layer import Step, Tensor, TimedLayer
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import time_layers

TimeLayers = Callable[[Sequence[tuple[ir.Model, Mapping[str, Any]]], Target], list[float | None]]
"""Measures small models with their feeds on a target; see `onnxslim.runtime.timing.time_layers`."""

FORMAT = 3
"""Goes up when times are measured in another way, so that those of before are not taken for the same."""

TOGETHER, TOGETHER_BYTES = 64, 512_000_000
"""Layers, and bytes of their weights, that take turns at once."""


NOTHING = TimedLayer((Step(("", "Identity"), (Tensor((1,)),)),))
"""A layer that does nothing: what a run costs in any case."""


class LayerTimes:
    """Measures layers, each once for one machine.

    What is measured is kept in memory and in the user's cache folder (`onnxslim.runtime.cache`), under the version of
    ONNX Runtime, the execution provider, the device, its instruction set and the threads.

    Args:
        target: Where the layers run.
        time_layers: Measures models and their feeds, in milliseconds; None for one that does not run.
        folder: Where to keep times; None: the user's cache folder.
    """

    def __init__(
        self,
        target: Target,
        time_layers: TimeLayers = time_layers,
        *,
        folder: pathlib.Path | None = None,
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
        self._target, self._time_layers = target, time_layers
        self._refused: set[str] = set()
        self.measured = 0
        """Layers that were measured and not remembered."""

    def milliseconds(
        self, layers: Sequence[TimedLayer], progress: Callable[[int, int], None] = lambda done, total: None
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

    def _measure(self, layers: dict[str, TimedLayer]) -> dict[str, float]:
        times = self._time_layers([layer.model() for layer in layers.values()], self._target)
        known = {key: time for key, time in zip(layers, times, strict=True) if time is not None}
        self._refused |= layers.keys() - known.keys()
        self.measured += len(known)
        return known


def _parts(layers: dict[str, TimedLayer]) -> Iterator[dict[str, TimedLayer]]:
    """Share the layers out into parts that fit into memory."""
    part: dict[str, TimedLayer] = {}
    for key, layer in layers.items():
        if part and (
            len(part) == TOGETHER or sum(each.nbytes for each in part.values()) + layer.nbytes > TOGETHER_BYTES
        ):
            yield part
            part = {}
        part[key] = layer
    if part:
        yield part
