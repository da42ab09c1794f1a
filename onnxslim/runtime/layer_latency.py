"""Times of single layers on the target, measured in turns and cached."""

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
"""Times small models with their feeds on a target; see `onnxslim.runtime.timing.time_layers`."""

FORMAT = 3
"""Version of the method of measurement; times of other versions are not used."""

TOGETHER, TOGETHER_BYTES = 64, 512_000_000
"""Limits of the layers, and of the bytes of their weights, that are timed together."""

NOTHING = TimedLayer((Step(("", "Identity"), (Tensor((1,)),)),))
"""A layer without computation, for the overhead of a run."""


class LayerTimes:
    """Times of layers, which are measured once per machine.

    Times are cached in memory and in the user's cache folder (`onnxslim.runtime.cache`), by the version of ONNX
    Runtime, the execution provider, the device, its instruction set and the number of threads.

    Args:
        target: Target of the layers.
        time_layers: Times models with their feeds, in milliseconds; None for a model that does not run.
        folder: Folder of the cache; None: the user's cache folder.
    """

    def __init__(
        self,
        target: Target,
        time_layers: TimeLayers = time_layers,
        *,
        folder: pathlib.Path | None = None,
    ) -> None:
        self._cache = Cache("layers", circumstances(target, FORMAT), folder)
        self._target, self._time_layers = target, time_layers
        self._refused: set[str] = set()

    def milliseconds(
        self, layers: Sequence[TimedLayer], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[float | None]:
        """Return the milliseconds of one run of each layer; None for a layer that does not run by itself.

        Layers that are not in the cache are timed in turns, so that other load affects all of them. Pass all layers
        that are compared in one call.

        Args:
            layers: The layers; equal layers are measured once.
            progress: Called with the number of measured layers, and of all layers to measure.
        """
        keys = [layer.key() for layer in layers]
        missing = {
            key: layer
            for key, layer in zip(keys, layers, strict=True)
            if self._cache.get(key) is None and key not in self._refused
        }
        done = 0
        for part in _parts(missing):
            times = self._time_layers([layer.model() for layer in part.values()], self._target)
            known = {key: time for key, time in zip(part, times, strict=True) if time is not None}
            self._refused |= part.keys() - known.keys()
            self._cache.update(known)
            done += len(part)
            progress(done, len(missing))
        return [self._cache.get(key) for key in keys]


def circumstances(target: Target, version: int) -> dict[str, str | int]:
    """Return what times on a target depend on; `version` is that of the method of measurement."""
    return {
        "format": version,
        "onnxruntime": onnxruntime.__version__,
        "provider": target.provider,
        "device": target.device,
        "instruction_set": target.instruction_set,
        "threads": target.threads,
    }


def _parts(layers: dict[str, TimedLayer]) -> Iterator[dict[str, TimedLayer]]:
    """Yield parts of the layers that fit into memory."""
    part: dict[str, TimedLayer] = {}
    for key, layer in layers.items():
        if part and (
            len(part) == TOGETHER or sum(member.nbytes for member in part.values()) + layer.nbytes > TOGETHER_BYTES
        ):
            yield part
            part = {}
        part[key] = layer
    if part:
        yield part
