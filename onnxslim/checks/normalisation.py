"""Compares the statistics of samples at BatchNormalizations with the means and variances stored in training.

The BatchNormalizations of a model store the mean and variance of every channel in training. Samples that are
preprocessed as in training have nearly the same statistics; the distance is the divergence of the two normal
distributions, channel by channel. Closer to the outputs different mistakes look the same, so only the first
BatchNormalizations are compared. Those that an exporter has folded into weights cannot be used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Floats
from onnxslim.data import Batch
from onnxslim.model.constants import constant
from onnxslim.observe.probe import truncated
from onnxslim.observe.statistics import ChannelAxis, Observer, Query, Statistic
from onnxslim.observe.stream import early_order
from onnxslim.ops.binding import dimensions, input_index
from onnxslim.ops.parameters import attribute
from onnxslim.runtime.session import OpenSession

LAYERS = 9
"""Number of BatchNormalizations: in ResNet-20 and ResNet-56 more of them do not detect exchanged channels better."""
CAP = 50.0
"""Limit of the divergence of one channel."""
DEAD = 1e-6
"""Share of the median variance below which a channel was dead in training, and is ignored."""


@dataclasses.dataclass(frozen=True)
class StoredStatistics:
    """Statistics stored in one BatchNormalization, shape [channels]."""

    channels: ChannelAxis
    mean: Floats
    variance: Floats
    """Variance plus epsilon."""
    epsilon: float


@dataclasses.dataclass(frozen=True)
class SampleStatistics:
    """Statistics of samples at the same inputs, in parts that can be resampled."""

    counts: Floats
    """Number of samples of the parts, shape [parts]."""
    means: tuple[Floats, ...]
    """Means of the channels, shape [parts, channels], for each BatchNormalization."""
    squares: tuple[Floats, ...]
    """Mean squares of the channels, shape [parts, channels], for each BatchNormalization."""


class Gauge:
    """Measures the distance of samples from the statistics stored in the BatchNormalizations of a model.

    Args:
        model: The original; not changed.
        open_session: Opens a model on the target.
        layers: Number of BatchNormalizations that are compared.

    `stored` is empty if the model has no BatchNormalizations with trained statistics.
    """

    def __init__(self, model: ir.Model, open_session: OpenSession, layers: int = LAYERS) -> None:
        found = find_stored(model)[:layers]
        names = list(dict.fromkeys(stored.channels[0] for stored in found))
        computed = {value.name for node in model.graph for value in node.outputs}
        beginning = truncated(model, names)
        if any(name in computed for name in names):
            infer_shapes(beginning)
        ranked = {value.name for value in beginning.graph.outputs if dimensions(value) is not None}
        self.stored = tuple(stored for stored in found if stored.channels[0] in ranked)
        self._means, self._squares = (
            [Query(name, statistic, axis) for name, axis in (stored.channels for stored in self.stored)]
            for statistic in (Statistic.MEAN, Statistic.MEAN_SQUARE)
        )
        if self.stored:
            self._observer = Observer(beginning, [*self._means, *self._squares], open_session)

    def __call__(self, batches: Sequence[Batch]) -> SampleStatistics:
        """Return the statistics of batches, one part per batch.

        Raises:
            RunError: The model does not run on the batches.
        """
        parts = [self._observer(batch) for batch in batches]
        return SampleStatistics(
            np.array([batch.count for batch in batches], np.float64),
            tuple(np.stack([part[query] for part in parts]) for query in self._means),
            tuple(np.stack([part[query] for part in parts]) for query in self._squares),
        )

    def distances(self, given: SampleStatistics, weights: Floats | None = None) -> Floats:
        """Return the distance at each BatchNormalization, shape [layers]: 0 is equal, 1 is far off.

        It is the mean over the channels of the Kullback-Leibler divergence of the normal distributions of the samples
        from the stored ones.

        Args:
            given: Statistics of the samples.
            weights: Weights of the parts, shape [parts], or [draws, parts] for distances of shape [draws, layers];
                None: 1.
        """
        share = given.counts * (np.ones(len(given.counts)) if weights is None else weights)
        share = share / share.sum(-1, keepdims=True)
        result = []
        for stored, means, squares in zip(self.stored, given.means, given.squares, strict=True):
            alive = stored.variance > DEAD * np.median(stored.variance)
            mean = share @ means[:, alive]
            variance = np.maximum(share @ squares[:, alive] - mean**2, 0) + stored.epsilon
            expected = stored.variance[alive]
            ratio = variance / expected
            divergence = (ratio + (mean - stored.mean[alive]) ** 2 / expected - 1 - np.log(ratio)) / 2
            result.append(np.minimum(np.nan_to_num(divergence, nan=CAP), CAP).mean(-1))
        return np.stack(result, axis=-1)


def find_stored(model: ir.Model) -> list[StoredStatistics]:
    """Return the statistics stored in the BatchNormalizations of the main graph, in order of execution."""
    found = []
    for node in early_order(model.graph):
        mean, variance = (_constant_input(node, name) for name in ("mean", "var"))
        if mean is None or variance is None or node.inputs[0] is None or attribute(node, "training_mode"):
            continue
        if not mean.any() and (variance == 1).all():
            continue  # as initialized, not trained
        epsilon = float(str(attribute(node, "epsilon")))
        found.append(StoredStatistics((node.inputs[0].name or "", 1), mean, variance + epsilon, epsilon))
    return found


def _constant_input(node: ir.Node, name: str) -> Floats | None:
    index = input_index(node, name)
    array = constant(node.inputs[index]) if index is not None and index < len(node.inputs) else None
    return None if array is None else array.astype(np.float64)
