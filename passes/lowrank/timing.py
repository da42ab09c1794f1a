"""Times layers beside what they would be split into, at the sizes of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.pipeline.interface import Context
from onnxslim.runtime.layer_latency import LayerTimes

from .candidates import SplitCandidate
from .emit import timed

MARGIN = 1.03
"""A split must be this much faster: less may be noise, and a node more costs a little in any model."""


class SplitTimer:
    """Says how much faster splits are than the layers that they stand for.

    Args:
        context: The target, and how to open models on it.
        model: Its operator sets count.
        shapes: Of the values that the layers get, by name.
    """

    margin = MARGIN

    def __init__(self, context: Context, model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._times = LayerTimes(context.target)
        self._progress = context.progress
        self._opsets: dict[str, int] = {"": model.graph.opset_imports[""]}
        self._shapes = shapes
        self._untimed: dict[str, str] = {}

    def why(self, layer: LinearLayer) -> str:
        """Return why a layer was not timed."""
        return self._untimed.get(layer.name, "")

    def ratios(self, layers: Sequence[LinearLayer], chosen: Sequence[SplitCandidate | None]) -> list[float | None]:
        """Return the time of each layer over that of its split; None where there is none, or where it was not timed.

        All are measured in turns.
        """
        pairs = {}
        for index, (layer, candidate) in enumerate(zip(layers, chosen, strict=True)):
            if candidate is None:
                continue
            data = self._shapes[layer.uses[0].data.name or ""]
            whole = timed(layer, data, None, (), self._opsets)
            parts = timed(layer, data, candidate.form, candidate.ranks, self._opsets)
            if whole is None or parts is None:
                self._untimed[layer.name] = f"it is of {layer.weight.dtype}"
            else:
                pairs[index] = whole, parts
        models = [candidate for pair in pairs.values() for candidate in pair]
        times = iter(
            self._times.milliseconds(models, lambda done, total: self._progress("lowrank: timing", done, total))
        )
        result: list[float | None] = [None] * len(layers)
        for index in pairs:
            whole_time, parts_time = next(times), next(times)
            if whole_time is None or parts_time is None:
                self._untimed[layers[index].name] = "it does not run by itself"
            else:
                result[index] = whole_time / parts_time
        return result
