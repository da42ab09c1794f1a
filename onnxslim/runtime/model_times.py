"""Times of models and of their nodes on the target, measured once per machine, whatever the weights are."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxslim.model.constants import constant_tensor
from onnxslim.model.nesting import nodes_within
from onnxslim.ops.traits import Trait, has
from onnxslim.runtime.cache import Cache
from onnxslim.runtime.kernels import first_value, kernel_milliseconds
from onnxslim.runtime.layer_latency import TimeLayers, circumstances
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import time_models

FORMAT = 4
"""Version of the method of measurement; times of other versions are not used."""
SMALL = 64
"""Integers of a constant that may be sizes, which decide how long a model takes."""
LEAST = 1e-9
"""Milliseconds of what takes none: the cache holds positive numbers."""

TimeKernels = Callable[[ir.Model, Mapping[str, Any], Target, Mapping[str, int], int], tuple[dict[str, float], float]]
"""Times the nodes of a model; see `onnxslim.runtime.kernels.kernel_milliseconds`."""


class ModelTimes:
    """Times of models, kept in the user's cache folder (`onnxslim.runtime.cache`) by their nodes and sizes.

    Args:
        target: Target of the models.
        time_models: Times models with their feeds in turns, in milliseconds; None for a model that does not run.
        time_kernels: Times the nodes of a model.
        folder: Folder of the cache; None: the user's cache folder.
    """

    def __init__(
        self,
        target: Target,
        time_models: TimeLayers = time_models,
        time_kernels: TimeKernels = kernel_milliseconds,
        *,
        folder: pathlib.Path | None = None,
    ) -> None:
        self._target, self._time_models, self._time_kernels = target, time_models, time_kernels
        self._cache = Cache("models", circumstances(target, FORMAT), folder)

    def together(self, models: Sequence[ir.Model], feeds: Mapping[str, Any]) -> list[float | None]:
        """Return the milliseconds of one run of each model, measured in turns; None for one that does not run.

        Times of one call were always measured together.

        Raises:
            RunError: The process that runs them failed.
        """
        key = hashlib.sha256(" ".join(structure(model, feeds) for model in models).encode()).hexdigest()[:24]
        known = [self._cache.get(f"{key}:{index}") for index in range(len(models))]
        if any(time is not None for time in known):
            return known
        times = self._time_models([(model, feeds) for model in models], self._target)
        self._cache.update({f"{key}:{index}": max(time, LEAST) for index, time in enumerate(times) if time is not None})
        return times

    def of_nodes(
        self, model: ir.Model, feeds: Mapping[str, Any], macs: Mapping[str, int], runs: int
    ) -> tuple[dict[str, float], float]:
        """Return the milliseconds of nodes of a model, and those of no node, as `kernel_milliseconds` does.

        Raises:
            RunError: The model does not run on `feeds`.
        """
        key, names = f"{structure(model, feeds)}:{runs}", [first_value(node) for node in model.graph]
        rest = self._cache.get(f"{key}:rest")
        if rest is not None:
            found = ((name, self._cache.get(f"{key}:{index}")) for index, name in enumerate(names))
            return {name: time for name, time in found if time is not None}, rest
        times, unknown = self._time_kernels(model, feeds, self._target, macs, runs)
        numbers = {f"{key}:{index}": max(times[name], LEAST) for index, name in enumerate(names) if name in times}
        self._cache.update({**numbers, f"{key}:rest": max(unknown, LEAST)})
        return times, unknown


def structure(model: ir.Model, feeds: Mapping[str, Any]) -> str:
    """Return a digest that is equal for models of the same nodes and sizes, whatever names and weights they have."""
    places: dict[ir.Value, int] = {}
    digest = hashlib.sha256(repr(sorted(model.opset_imports.items())).encode())

    def add(value: ir.Value | None, *, sizes: bool = False) -> None:
        if value is None:
            digest.update(b"-")
            return
        known = value in places
        digest.update(f"{places.setdefault(value, len(places))},".encode())
        tensor = None if known else constant_tensor(value)
        if tensor is not None:
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            if tensor.size <= SMALL and (sizes or tensor.dtype == ir.DataType.INT64):
                digest.update(tensor.tobytes())

    for value in model.graph.inputs:
        array = feeds.get(value.name or "")
        digest.update(f"{value.dtype}{np.shape(array) if isinstance(array, np.ndarray) else type(array)}".encode())
        add(value)
    for node in nodes_within(model.graph):
        digest.update(f"{node.domain}:{node.op_type}".encode())
        for name, attribute in sorted(node.attributes.items()):
            plain = isinstance(attribute.value, (int, float, str, list, tuple))
            digest.update(f"{name}={attribute.value if plain else attribute.type}".encode())
        for operand in (*node.inputs, *node.outputs):
            add(operand, sizes=has(node, Trait.SIZED_BY_VALUES))
    for value in model.graph.outputs:
        add(value)
    return digest.hexdigest()[:24]
