"""Measures how much of the error of a layer arrives at the outputs: each layer is split alone, and the model run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.runner.session import Session

from .factors import Split
from .layer import Layer, find_layers
from .writing import write

Array = npt.NDArray[np.float64]

ENOUGH = 32
"""Samples that tell one layer from another."""
FEWEST = 2
"""Fewer tell nothing."""
LEAST = 1e-3
"""No layer counts less than this share of what the average layer counts: few samples measured it."""


class Sensitivity:
    """Compares outputs of a model with those that it has when one layer is split.

    Args:
        model: The model, whole; it is not changed.
        samples: Few of them.
        open_session: Opens a model on the target.

    Raises:
        RunError: The model does not run on the samples.
    """

    def __init__(self, model: ir.Model, samples: Samples, open_session: Callable[[ir.Model], Session]) -> None:
        self._model, self._open = model, open_session
        self._feeds = [dict(each.feeds) for each in samples.batches(8)]
        self._wanted = self._run(model)
        self._energy = {
            name: max(float(np.square(array - array.mean(axis=0)).sum()), float(np.finfo(np.float32).tiny))
            for name, array in self._wanted.items()
        }

    def __call__(self, layer: Layer, made: Split, biases: list[Array | None]) -> float:
        """Return the energy of the error of the outputs, as a share of theirs, where `layer` alone is split."""
        probe = self._model.clone()
        own = next(each for each in find_layers(probe, (), ())[0] if each.weight.name == layer.weight.name)
        write(probe.graph, own, made, biases)
        given = self._run(probe)
        shares = [
            float(np.square(array - given[name]).sum()) / self._energy[name] for name, array in self._wanted.items()
        ]
        finite = [share for share in shares if np.isfinite(share)]
        return float(np.mean(finite)) if finite else 1.0

    def _run(self, model: ir.Model) -> Mapping[str, Any]:
        session = self._open(model)
        pieces: dict[str, list[Any]] = {}
        for feeds in self._feeds:
            for name, array in session.run(feeds).items():
                if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim:
                    pieces.setdefault(name, []).append(array.astype(np.float64).reshape(len(array), -1))
        return {
            name: np.concatenate(arrays)
            for name, arrays in pieces.items()
            if len({array.shape[1] for array in arrays}) == 1
        }


def weights(measured: Mapping[int, tuple[float, float]], count: int) -> list[float]:
    """Return how much the error of each layer counts, 1 on average.

    Args:
        measured: For layers (error of the layer, error of the outputs), both as shares.
        count: How many layers there are; those that were not measured count as the average does.
    """
    found = {at: outputs / error for at, (error, outputs) in measured.items() if error > 0}
    mean = float(np.mean(list(found.values()))) if found else 0.0
    if not mean > 0:
        return [1.0] * count
    return [max(found.get(at, mean) / mean, LEAST) for at in range(count)]
