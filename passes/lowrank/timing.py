"""Times layers beside what they would be split into, at the sizes of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.pipeline.interface import Context
from onnxslim.pipeline.reasons import Reason
from onnxslim.runtime.layer_latency import LayerTimes

from .allocation import describe
from .candidates import SplitCandidate
from .codes import LowrankCode
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

    def __init__(self, context: Context, model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._times = LayerTimes(context.target)
        self._progress = context.progress
        self._opsets: dict[str, int] = {"": model.graph.opset_imports[""]}
        self._shapes = shapes

    def slower(self, layers: Sequence[LinearLayer], chosen: Sequence[SplitCandidate | None]) -> list[Reason | None]:
        """Return for each layer why its split is not worth its time; None where it is faster, or where there is none.

        All are measured in turns.
        """
        reasons: list[Reason | None] = [None] * len(layers)
        for index, ratio in enumerate(self.ratios(layers, chosen)):
            candidate = chosen[index]
            if candidate is None or ratio is None:
                continue
            if isinstance(ratio, str):
                reasons[index] = Reason(LowrankCode.NOT_TIMED, (ratio,))
            elif ratio < MARGIN:
                where = f"{ratio:.2f}x at {describe(layers[index].parameters, candidate)}"
                reasons[index] = Reason(LowrankCode.NOT_FASTER, (where,))
        return reasons

    def ratios(
        self, layers: Sequence[LinearLayer], chosen: Sequence[SplitCandidate | None]
    ) -> list[float | str | None]:
        """Return the time of each layer over that of its split, or why it was not timed; None where it has none."""
        result: list[float | str | None] = [None] * len(layers)
        pairs = {}
        for index, (layer, candidate) in enumerate(zip(layers, chosen, strict=True)):
            if candidate is None:
                continue
            data = self._shapes[layer.uses[0].data.name or ""]
            whole = timed(layer, data, None, (), self._opsets)
            parts = timed(layer, data, candidate.form, candidate.ranks, self._opsets)
            if whole is None or parts is None:
                result[index] = f"it is of {layer.weight.dtype}"
            else:
                pairs[index] = whole, parts
        models = [candidate for pair in pairs.values() for candidate in pair]
        times = iter(
            self._times.milliseconds(models, lambda done, total: self._progress("lowrank: timing", done, total))
        )
        for index in pairs:
            whole_time, parts_time = next(times), next(times)
            if whole_time is None or parts_time is None:
                result[index] = "it does not run by itself"
            else:
                result[index] = whole_time / parts_time
        return result
