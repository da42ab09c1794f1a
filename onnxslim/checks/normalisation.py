"""Compares what samples give at BatchNormalizations with the means and variances that those stored in training.

A model says by its BatchNormalizations what its inputs were like: each stored the mean and the variance of every
channel that it normalises. Samples that were prepared as in training give nearly the same; how far they are off is told
by the divergence of two normal distributions, channel by channel. Nearer the outputs more mistakes look alike, so that
the first few BatchNormalizations do. What an exporter has folded into weights can no longer be asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import Batch
from onnxslim.model.constants import constant
from onnxslim.observe.probe import truncated
from onnxslim.observe.statistics import ChannelAxis, Observer, Query, Statistic
from onnxslim.observe.stream import early_order
from onnxslim.ops.binding import dimensions, input_index
from onnxslim.ops.parameters import attribute
from onnxslim.runtime.session import Session

Floats = npt.NDArray[np.float64]

LAYERS = 9
"""How many of them are compared: in ResNet-20 and -56 more tell no better whether channels are exchanged, and cost."""
CAP = 50.0
"""The most that one channel counts: it is off, and how far does not matter."""
DEAD = 1e-6
"""Channels whose variance is this small a share of the median were dead in training: they tell nothing."""


@dataclasses.dataclass(frozen=True)
class StoredStatistics:
    """What one BatchNormalization stored of the channels that it normalises; shape [channels]."""

    channels: ChannelAxis
    mean: Floats
    variance: Floats
    """With the epsilon that it adds."""
    epsilon: float


@dataclasses.dataclass(frozen=True)
class Given:
    """What samples give at the same places, in parts that can be weighed anew."""

    counts: Floats
    """Samples in each part, shape [parts]."""
    means: tuple[Floats, ...]
    """For each place the mean of every channel in each part, shape [parts, channels]."""
    squares: tuple[Floats, ...]
    """The mean squares."""


class Gauge:
    """Measures how far samples are from what the BatchNormalizations of a model stored.

    Args:
        model: The original; not changed.
        open_session: Opens a model on the target.
        layers: How many BatchNormalizations are compared.

    `stored` is empty where there is nothing to compare with: none was kept, or none stored anything.
    """

    def __init__(self, model: ir.Model, open_session: Callable[[ir.Model], Session], layers: int = LAYERS) -> None:
        self.stored: tuple[StoredStatistics, ...] = ()
        found = find_stored(model)[:layers]
        names = list(dict.fromkeys(stored.channels[0] for stored in found))
        made = {value.name for node in model.graph for value in node.outputs}
        beginning = truncated(model, names)
        if any(name in made for name in names):
            infer_shapes(beginning)
        ranked = {value.name for value in beginning.graph.outputs if dimensions(value) is not None}
        self.stored = tuple(stored for stored in found if stored.channels[0] in ranked)
        self._means, self._squares = (
            [Query(name, statistic, axis) for name, axis in (stored.channels for stored in self.stored)]
            for statistic in (Statistic.MEAN, Statistic.MEAN_SQUARE)
        )
        if self.stored:
            self._observer = Observer(beginning, [*self._means, *self._squares], open_session)

    def __call__(self, batches: Sequence[Batch]) -> Given:
        """Return what batches give, each a part.

        Raises:
            RunError: The model does not run on them.
        """
        parts = [self._observer(batch) for batch in batches]
        return Given(
            np.array([batch.count for batch in batches], np.float64),
            tuple(np.stack([part[query] for part in parts]) for query in self._means),
            tuple(np.stack([part[query] for part in parts]) for query in self._squares),
        )

    def distances(self, given: Given, weights: Floats | None = None) -> Floats:
        """Return how far samples are off at each BatchNormalization, shape [places]: 0 is the same, 1 is far off.

        It is the Kullback-Leibler divergence of normal distributions, N(given) from N(stored), mean over the channels.

        Args:
            given: What the samples give.
            weights: How often each part counts, shape [parts], or [draws, parts] for distances of shape
                [draws, places]; None: once.
        """
        share = given.counts * (np.ones(len(given.counts)) if weights is None else weights)
        share = share / share.sum(-1, keepdims=True)
        result = []
        for stored, means, squares in zip(self.stored, given.means, given.squares, strict=True):
            alive = stored.variance > DEAD * np.median(stored.variance)
            mean = share @ means[:, alive]
            variance = np.maximum(share @ squares[:, alive] - mean**2, 0) + stored.epsilon
            wanted = stored.variance[alive]
            ratio = variance / wanted
            off = (ratio + (mean - stored.mean[alive]) ** 2 / wanted - 1 - np.log(ratio)) / 2
            result.append(np.minimum(np.nan_to_num(off, nan=CAP), CAP).mean(-1))
        return np.stack(result, axis=-1)


def find_stored(model: ir.Model) -> list[StoredStatistics]:
    """Return what the BatchNormalizations of the main graph stored, in the order in which they run."""
    found = []
    for node in early_order(model.graph):
        mean, variance = (_constant_input(node, name) for name in ("mean", "var"))
        if mean is None or variance is None or node.inputs[0] is None or attribute(node, "training_mode"):
            continue
        if not mean.any() and (variance == 1).all():
            continue  # as it was initialised: nobody trained it
        epsilon = float(str(attribute(node, "epsilon")))
        found.append(StoredStatistics((node.inputs[0].name or "", 1), mean, variance + epsilon, epsilon))
    return found


def _constant_input(node: ir.Node, name: str) -> Floats | None:
    index = input_index(node, name)
    array = constant(node.inputs[index]) if index is not None and index < len(node.inputs) else None
    return None if array is None else array.astype(np.float64)
