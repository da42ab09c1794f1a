"""Observes tensors inside the running model: what leaves it is a few numbers a tensor, however many samples there are.

The model is cloned, its outputs are replaced by reductions of the tensors of interest, and the samples are streamed
through it: first for the ranges, then, where a calibration asks for it, for histograms over those ranges. Collecting
whole tensors instead is what makes other calibrators run out of memory (onnxruntime#10503, #11020, #21979).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.pipeline.interface import Context

Floats = npt.NDArray[np.float64]

BINS = 4096
"""Bins of a histogram: 16 for each of the 256 levels that they are to be mapped to, and 32 KB a tensor."""

HISTOGRAM_OPSET = 16
"""ScatterElements adds since opset 16."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The smallest and the largest value that was seen in a tensor."""

    low: float
    high: float
    finite: bool = True
    """False: there were infinities or NaNs, `low` and `high` mean nothing."""


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How often the values of a tensor fell near each multiple of `width`. Zero lies in the middle of its bin."""

    counts: Floats
    width: float
    zero: int
    """The index of the bin around zero."""

    @property
    def centers(self) -> Floats:
        """The value that each bin stands for."""
        return np.asarray((np.arange(len(self.counts)) - self.zero) * self.width, np.float64)


class ReductionGraph:
    """A clone of a model whose outputs are reductions. Nodes are added with `add`, results named with `give`."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model.clone()
        self.graph = self.model.graph
        self.graph.outputs.clear()
        self._one: ir.Value | None = None
        self.values: dict[str, ir.Value] = {value.name or "": value for value in self.graph.inputs}
        for node in self.graph:
            self.values.update((value.name or "", value) for value in node.outputs)

    def add(self, op_type: str, *inputs: ir.Value, outputs: int = 1, **attributes: Any) -> ir.Value:
        """Append a node and return its first output."""
        node = ir.node(op_type, inputs, attributes, num_outputs=outputs)
        self.graph.append(node)
        return node.outputs[0]

    def ones(self, value: ir.Value) -> ir.Value:
        """Return ones, as many as `value` has elements. Shape would not do: shapes that models declare may be wrong."""
        if self._one is None:
            self._one = self.hold(np.float32(1), "one_of_probe")
        return self.add("Clip", value, self._one, self._one)

    def hold(self, content: npt.ArrayLike, name: str) -> ir.Value:
        """Add a constant."""
        array = np.asarray(content)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def give(self, value: ir.Value, name: str, dtype: ir.DataType = ir.DataType.FLOAT) -> None:
        """Make `value` an output called `name`."""
        value.name, value.type = name, ir.TensorType(dtype)
        self.graph.outputs.append(value)

    def run(self, context: Context, samples: Samples, what: str) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
        """Stream the samples through the probe; yields what each batch gave."""
        session = context.open_session(self.model)
        used = {spec.name for spec in session.inputs}
        for done, batch in enumerate(samples.batches(), 1):
            yield session.run({name: array for name, array in batch.feeds.items() if name in used})
            context.progress(what, done, samples.count)


def range_probe(model: ir.Model, names: Sequence[str]) -> ReductionGraph:
    """Return a probe that gives ``low<i>``, ``high<i>`` and ``sum<i>``, one number each, for the i-th named tensor.

    Only the sum is sure to show a NaN: the smallest and the largest number leave it out on some processors.
    """
    probe = ReductionGraph(model)
    for index, name in enumerate(names):
        value = probe.values[name]
        probe.give(probe.add("ReduceMin", value, keepdims=0), f"low{index}")
        probe.give(probe.add("ReduceMax", value, keepdims=0), f"high{index}")
        probe.give(probe.add("ReduceSum", value, keepdims=0), f"sum{index}")
    return probe


def observe_ranges(model: ir.Model, names: Sequence[str], context: Context, samples: Samples) -> dict[str, Range]:
    """Return the range of each named tensor over all samples."""
    lows = dict.fromkeys(names, np.inf)
    highs = dict.fromkeys(names, -np.inf)
    finite = dict.fromkeys(names, True)
    for found in range_probe(model, names).run(context, samples, "calibration: ranges"):
        for index, name in enumerate(names):
            low, high, total = (float(found[f"{kind}{index}"]) for kind in ("low", "high", "sum"))
            finite[name] &= bool(np.isfinite([low, high, total]).all())
            lows[name], highs[name] = min(lows[name], low), max(highs[name], high)
    return {name: Range(lows[name], highs[name], finite[name]) for name in names}


def histogram_probe(model: ir.Model, ranges: Mapping[str, Range]) -> tuple[ReductionGraph, tuple[Histogram, ...]]:
    """Return a probe that gives ``counts<i>``, `BINS` numbers, and the empty histogram of each tensor.

    A value x falls into bin round(x / width) + zero. The counts are summed by ScatterElements, where one pass over the
    tensor does for all bins.
    """
    probe = ReductionGraph(model)
    empty = tuple(_empty_histogram(seen) for seen in ranges.values())
    zeros = probe.hold(np.zeros(BINS, np.float32), "zeros_of_histogram")
    lowest = probe.hold(np.float32(0), "first_of_histogram")
    highest = probe.hold(np.float32(BINS - 1), "last_of_histogram")
    flat = probe.hold(np.array([-1]), "flat_of_histogram")
    for index, (name, histogram) in enumerate(zip(ranges, empty, strict=True)):
        factor = probe.hold(np.float32(1 / histogram.width), f"factor{index}_of_histogram")
        shift = probe.hold(np.float32(histogram.zero), f"shift{index}_of_histogram")
        steps = probe.add("Round", probe.add("Mul", probe.values[name], factor))
        inside = probe.add("Clip", probe.add("Add", steps, shift), lowest, highest)
        places = probe.add("Reshape", inside, flat)
        bins = probe.add("Cast", places, to=ir.DataType.INT64.value)
        probe.give(
            probe.add("ScatterElements", zeros, bins, probe.ones(places), axis=0, reduction="add"), f"counts{index}"
        )
    return probe, empty


def _empty_histogram(seen: Range) -> Histogram:
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    width = max((high - low) / (BINS - 2), float(np.finfo(np.float32).tiny) * BINS)
    return Histogram(np.zeros(BINS), width, round(-low / width))


def observe_histograms(
    model: ir.Model, ranges: Mapping[str, Range], context: Context, samples: Samples
) -> dict[str, Histogram]:
    """Return the histogram of each tensor over all samples. The opset must be `HISTOGRAM_OPSET` or newer."""
    probe, empty = histogram_probe(model, ranges)
    for found in probe.run(context, samples, "calibration: histograms"):
        for index, histogram in enumerate(empty):
            histogram.counts[:] += found[f"counts{index}"]
    return dict(zip(ranges, empty, strict=True))
