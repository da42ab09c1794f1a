"""Statistics of the values of a running model, reduced inside the graph.

What leaves the model in one run is a few numbers for each value, or for each of its channels, so that memory does not
grow with the samples. Collecting whole tensors instead is what makes other calibrators run out of memory
(onnxruntime#10503, #11020, #21979).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.arrays import Floats
from onnxslim.data import Batch, Samples
from onnxslim.observe.batches import batch_size
from onnxslim.observe.finite import check_finite
from onnxslim.observe.probe import Probe, run_on
from onnxslim.runtime.session import OpenSession

ChannelAxis = tuple[str, int]
"""(name of a value, axis of its channels)."""

BINS = 4096
"""Bins of a histogram: 16 for each of the 256 levels that they are to be mapped to, and 32 KB a tensor."""
COUNTED = 1 << 16
"""Elements of a value that a histogram of one run counts at most, evenly spaced: no more of them change it visibly, and
counting all takes longer than running the model."""
HISTOGRAM_OPSET = 16
"""ScatterElements adds since opset 16."""


class Statistic(enum.Enum):
    """A number for a whole value, or for each of its channels."""

    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    MEAN_MINIMUM = "mean minimum"
    """The mean of the smallest elements of the runs."""
    MEAN_MAXIMUM = "mean maximum"
    MEAN = "mean"
    MEAN_MAGNITUDE = "mean magnitude"
    MEAN_SQUARE = "mean square"
    ZEROS = "zeros"
    """The share of elements that are 0."""
    SIZE = "size"
    """The number of elements of the whole value in all runs."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The smallest and the largest element of a value."""

    low: float
    high: float
    finite: bool = True
    """False: there were infinities or NaNs, `low` and `high` mean nothing."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The bins of a histogram: `BINS` multiples of a width, each in the middle of its bin."""

    width: float
    zero: int
    """The index of the bin around zero."""

    @classmethod
    def covering(cls, low: float, high: float) -> Grid:
        """Return bins that cover an interval, and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        width = max((high - low) / (BINS - 2), float(np.finfo(np.float32).tiny) * BINS)
        return cls(width, round(-low / width))


@dataclasses.dataclass(frozen=True)
class Power:
    """The mean of ``max(x / width, 0) ** EXPONENT``: of a width below zero it is about the elements below zero.

    The root of it is a width that the largest elements decide, and rare ones less than the largest of all.
    """

    width: float
    """Not 0; near the largest magnitude, so that powers stay finite."""


EXPONENT = 16
"""With it the width grows from distribution to distribution as the range does that 8 bits cover with the least error:
1.5, 2.5 and 4.8 standard deviations of a uniform, a normal and a Laplace distribution to 1.7, 3.9 and 7.0 (Banner et
al., "Post-training 4-bit quantization of convolution networks for rapid-deployment", NeurIPS 2019)."""


@dataclasses.dataclass(frozen=True)
class Query:
    """A statistic of a value of the main graph."""

    value: str
    statistic: Statistic | Grid | Power
    """A grid: how many elements are nearest to each of its multiples, shape [BINS]. The operator set of the model must
    be `HISTOGRAM_OPSET` or newer."""
    axis: int | None = None
    """The axis of the channels, shape [channels]; None: one number for the whole value, shape []."""


class Observer:
    """A model that answers queries on each batch.

    Args:
        model: Any model; it is not changed.
        queries: What is asked. Values along whose channels is asked are of known rank.
        open_session: Opens a model on the target.
    """

    def __init__(self, model: ir.Model, queries: Collection[Query], open_session: OpenSession) -> None:
        probe = Probe(model)
        wide: dict[str, ir.Value] = {}
        outputs: dict[Query, ir.Value] = {}
        for query in dict.fromkeys(queries):
            value = probe.values[query.value]
            if query.value not in wide:
                cast = value.dtype is not ir.DataType.FLOAT
                wide[query.value] = probe.add("Cast", value, to=ir.DataType.FLOAT.value) if cast else value
            output = _reduced(probe, wide[query.value], query.statistic, _reduced_axes(value, query.axis))
            integer = query.statistic is Statistic.SIZE
            output.type = ir.TensorType(ir.DataType.INT64 if integer else ir.DataType.FLOAT)
            outputs[query] = output
        self._session = open_session(probe.compute(outputs.values()))
        self._names = {query: output.name or "" for query, output in outputs.items()}

    def __call__(self, batch: Batch) -> dict[Query, Floats]:
        """Return the answers for one batch.

        Raises:
            RunError: The model does not run on it.
        """
        results = run_on(self._session, batch.feeds)
        return {query: np.asarray(results[name], np.float64) for query, name in self._names.items()}


def observe(
    model: ir.Model,
    queries: Collection[Query],
    samples: Samples,
    open_session: OpenSession,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Query, Floats]:
    """Return the answers to queries over all samples: of means those over all elements.

    Args:
        model: Any model; it is not changed.
        queries: What is asked. Values along whose channels is asked are of known rank.
        samples: Read once.
        open_session: Opens a model on the target.
        report: Told (samples done, samples in all) after each run.

    Raises:
        RunError: The model does not run on the samples.
    """
    size_of = {query: Query(query.value, Statistic.SIZE) for query in queries if _is_mean(query.statistic)}
    observer = Observer(model, [*queries, *size_of.values()], open_session)
    totals: dict[Query, Floats] = {}
    done = runs = 0
    looked_at = {query.value for query in queries}  # ONNX Runtime may run all that reduces them after all else
    for batch in samples.batches(batch_size(model, samples, kept=looked_at)):
        answers = observer(batch)
        for query, answer in answers.items():
            if query in size_of:
                size = answers[size_of[query]]
                answer = answer * size if size else np.zeros_like(answer)
            merge = _MERGES.get(query.statistic, np.add)
            totals[query] = merge(totals[query], answer) if query in totals else answer
        done, runs = done + batch.count, runs + 1
        report(done, samples.count)
    counts = {query: np.maximum(totals[size], 1) for query, size in size_of.items()}
    counts |= {query: np.asarray(runs) for query in queries if query.statistic in _PER_RUN}
    return {query: totals[query] / counts[query] if query in counts else totals[query] for query in queries}


def range_queries(names: Collection[str]) -> list[Query]:
    """Return what `ranges` wants to know of values."""
    return [Query(name, statistic) for name in names for statistic in _RANGE]


def ranges(answers: Mapping[Query, Floats], names: Collection[str]) -> dict[str, Range]:
    """Return the ranges of values of one or more runs. Only the mean is sure to show a NaN: the smallest and the
    largest element leave it out on some processors."""
    found: dict[str, Range] = {}
    for name in names:
        low, high, mean = (float(answers[Query(name, statistic)]) for statistic in _RANGE)
        found[name] = Range(low, high, bool(np.isfinite([low, high, mean]).all()))
    return found


@dataclasses.dataclass(frozen=True)
class ChannelMoments:
    """Means over all elements of a channel, shape [channels]."""

    mean: Floats
    magnitude: Floats
    square: Floats
    zeros: Floats | None = None
    """The share of zeros, where it was asked for."""

    @property
    def variance(self) -> Floats:
        """The mean square without the squared mean."""
        return np.maximum(self.square - self.mean**2, 0)


def channel_moments(
    model: ir.Model,
    channels: Sequence[ChannelAxis],
    samples: Samples,
    open_session: OpenSession,
    *,
    zeros: bool = False,
) -> dict[ChannelAxis, ChannelMoments]:
    """Return the moments of channels over all samples.

    Args:
        model: Any model; it is not changed.
        channels: Values of its main graph, each with the axis of its channels.
        samples: Read once.
        open_session: Opens a model on the target.
        zeros: Count zeros as well.

    Raises:
        RunError: The model does not run on the samples.
        ValuesNotFinite: A value is not finite on them.
    """
    statistics = [Statistic.MEAN, Statistic.MEAN_MAGNITUDE, Statistic.MEAN_SQUARE, *([Statistic.ZEROS] * zeros)]
    queries = [Query(name, statistic, axis) for name, axis in channels for statistic in statistics]
    answers = observe(model, queries, samples, open_session)
    result: dict[ChannelAxis, ChannelMoments] = {}
    for name, axis in channels:
        moments = ChannelMoments(*(answers[Query(name, statistic, axis)] for statistic in statistics))
        check_finite(float(moments.square.max(initial=0)) ** 0.5, name)
        result[name, axis] = moments
    return result


_RANGE = (Statistic.MINIMUM, Statistic.MAXIMUM, Statistic.MEAN)
_MEANS = frozenset({Statistic.MEAN, Statistic.MEAN_MAGNITUDE, Statistic.MEAN_SQUARE, Statistic.ZEROS})
_PER_RUN = frozenset({Statistic.MEAN_MINIMUM, Statistic.MEAN_MAXIMUM})
_MERGES: dict[Statistic | Grid | Power, np.ufunc] = {Statistic.MINIMUM: np.minimum, Statistic.MAXIMUM: np.maximum}
"""How the answers of two runs become one, where they are not added."""


def _is_mean(statistic: Statistic | Grid | Power) -> bool:
    return statistic in _MEANS or isinstance(statistic, Power)


def _reduced_axes(value: ir.Value, axis: int | None) -> list[int] | None:
    """Return all axes but `axis`; None where no axis stays."""
    rank = len(value.shape or ())
    return None if axis is None else [index for index in range(rank) if index != axis % rank]


def _reduced(
    probe: Probe, value: ir.Value, statistic: Statistic | Grid | Power, axes: Sequence[int] | None
) -> ir.Value:
    """Append what a statistic of `value` over `axes` is in one run."""
    match statistic:
        case Grid() as grid:
            return _counted(probe, value, grid)
        case Power(width):
            value = probe.add("Relu", probe.add("Mul", value, probe.constant(np.float32(1 / width))))
            for _ in range(EXPONENT.bit_length() - 1):
                value = probe.add("Mul", value, value)
        case Statistic.SIZE:
            return probe.add("Size", value)
        case Statistic.MINIMUM | Statistic.MEAN_MINIMUM:
            return probe.reduce("ReduceMin", value, axes)
        case Statistic.MAXIMUM | Statistic.MEAN_MAXIMUM:
            return probe.reduce("ReduceMax", value, axes)
        case Statistic.MEAN_MAGNITUDE:
            value = probe.add("Abs", value)
        case Statistic.MEAN_SQUARE:
            value = probe.add("Mul", value, value)
        case Statistic.ZEROS:
            nonzero = probe.add("Abs", probe.add("Sign", value))
            value = probe.add("Sub", probe.constant(np.float32(1)), nonzero)
    return probe.reduce("ReduceMean", value, axes)


def _counted(probe: Probe, value: ir.Value, grid: Grid) -> ir.Value:
    """Append a histogram: x falls into bin round(x / width) + zero. ScatterElements sums in one pass for all bins."""
    one, whole = probe.constant(np.float32(1)), probe.constant(np.array([-1]))
    flat = probe.add("Reshape", value, whole)
    # Every n-th element, n odd: rows and channels are even in number as a rule, and all of them shall be seen.
    pairs = probe.add("Div", probe.add("Size", flat), probe.constant(np.array([2 * COUNTED])))
    every = probe.add("Add", probe.add("Mul", pairs, probe.constant(np.array([2]))), probe.constant(np.array([1])))
    ends = (probe.constant(np.array([end])) for end in (0, np.iinfo(np.int64).max, 0))
    some = probe.add("Slice", flat, *ends, every)
    steps = probe.add("Round", probe.add("Mul", some, probe.constant(np.float32(1 / grid.width))))
    bins = probe.add("Add", steps, probe.constant(np.float32(grid.zero)))
    inside = probe.add("Clip", bins, probe.constant(np.float32(0)), probe.constant(np.float32(BINS - 1)))
    # Shape would not do to count: shapes that models declare may be wrong.
    ones = probe.add("Clip", inside, one, one)
    indices = probe.add("Cast", inside, to=ir.DataType.INT64.value)
    empty = probe.constant(np.zeros(BINS, np.float32))
    return probe.add("ScatterElements", empty, indices, ones, axis=0, reduction="add")
