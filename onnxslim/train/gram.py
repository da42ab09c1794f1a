"""Second moments of what contractions read: Gram matrices of the rows of their inputs, summed in double precision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.data import Samples
from onnxslim.graph.contraction import Contraction
from onnxslim.runner.session import Session
from onnxslim.train.observation import truncated
from onnxslim.train.rows import input_rows, place_count

PRODUCTS = 2e9
"""Multiply-accumulates that one Gram matrix may take; it limits the places of a sample that rows are taken of."""
RIDGE = 1e-2
"""What is added to the diagonal, relative to its mean: rows are a sample of what the layer will see."""

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Gram:
    """What a contraction reads, about its mean: a bias makes up for that."""

    moment: Array
    """Shape [groups, columns, columns]: the mean of products of columns, with a ridge on the diagonal."""
    weight: Array
    """Shape [groups, columns, outputs of a group]."""
    mean: Array
    """Shape [groups, columns]."""
    channels: npt.NDArray[np.int64]
    """For each column the channel of its group that it reads."""

    @property
    def energy(self) -> float:
        """What the contraction makes of it, squared and summed over all outputs, but for the ridge."""
        return float(np.einsum("gco,gcd,gdo->", self.weight, self.moment, self.weight, optimize=True))

    def without(self, columns: npt.NDArray[np.bool_]) -> Array:
        """Return the weight that reads nothing of some columns, and comes as near to the outputs as it can.

        Args:
            columns: Which go, shape [groups, columns]; as many in each group.
        """
        fitted = np.zeros_like(self.weight)
        for group, gone in enumerate(columns):
            kept = ~gone
            moment, weight = self.moment[group], self.weight[group]
            fitted[group, kept] = weight[kept]
            if kept.any() and gone.any():
                fitted[group, kept] += np.linalg.solve(
                    moment[np.ix_(kept, kept)], moment[np.ix_(kept, gone)] @ weight[gone]
                )
        return fitted


def measurable(contraction: Contraction) -> bool:
    """Whether `grams` knows the rows of a contraction."""
    return contraction.regular and contraction.data.shape is not None


def grams(
    model: ir.Model,
    read: Sequence[Contraction],
    samples: Samples,
    count: int,
    generator: np.random.Generator,
    open_session: Callable[[ir.Model], Session],
    batch: int = 16,
) -> Iterator[Gram]:
    """Yield the Gram matrix of each contraction over all samples.

    Args:
        model: Any model; it is not changed.
        read: Contractions of its main graph, `measurable` ones.
        samples: Read once.
        count: How many samples these are.
        generator: Chooses places of convolutions.
        open_session: Opens a model on the target.
        batch: Samples in one run, where the model takes any number.

    Raises:
        RunError: The model does not run on the samples.
    """
    names = sorted({contraction.data.name or "" for contraction in read})
    session = open_session(truncated(model, names))
    sums = [np.zeros((each.groups, each.columns, each.columns)) for each in read]
    means = [np.zeros((each.groups, each.columns)) for each in read]
    rows = [0] * len(read)
    for piece in samples.batches(batch):
        values = session.run(piece.feeds)
        for at, contraction in enumerate(read):
            data = values[contraction.data.name or ""]
            most = int(PRODUCTS / (contraction.groups * contraction.columns**2))
            available = place_count(contraction, data)
            share = max(1, most // count if contraction.kernel else most * piece.count // count)
            places = np.arange(available)
            if share < available:
                places = np.sort(generator.choice(available, share, replace=False))
            taken = input_rows(contraction, data, places)
            sums[at] += taken.transpose(0, 2, 1) @ taken
            means[at] += taken.sum(axis=1, dtype=np.float64)
            rows[at] += taken.shape[1]
    for contraction, total, mean, taken_rows in zip(read, sums, means, rows, strict=True):
        total /= max(taken_rows, 1)
        mean = mean / max(taken_rows, 1)
        total -= mean[:, :, None] * mean[:, None]
        diagonal = np.einsum("gcc->gc", total)
        # The fewer rows there are for each unknown, the less their moments say.
        ridge = RIDGE * max(1.0, contraction.columns / max(taken_rows, 1))
        diagonal += ridge * diagonal.mean(axis=1, keepdims=True) + 1e-12
        each = contraction.columns // math.prod(contraction.kernel)
        yield Gram(total, contraction.blocks(), mean, np.arange(contraction.columns) % each)
