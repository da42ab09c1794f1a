"""Second moments of what contractions read: Gram matrices of the rows of their inputs, summed in double precision.

`sums` streams them over samples; `grams` makes of them what least squares wants.
"""

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


@dataclasses.dataclass
class Sums:
    """Sums over all rows x that one contraction reads."""

    products: Array
    """Of x x', shape [groups, columns, columns]."""
    inputs: Array
    """Of x, shape [groups, columns]."""
    rows: int = 0


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
    """Whether `sums` and `grams` know the rows of a contraction."""
    return contraction.regular and contraction.data.shape is not None


def grams(
    model: ir.Model,
    read: Sequence[Contraction],
    samples: Samples,
    count: int,
    generator: np.random.Generator,
    open_session: Callable[[ir.Model], Session],
) -> Iterator[Gram]:
    """Yield the Gram matrix of each contraction over all samples; see `sums`.

    Raises:
        RunError: The model does not run on the samples.
    """
    for contraction, seen in zip(read, sums(model, read, samples, count, generator, open_session), strict=True):
        rows = max(seen.rows, 1)
        moment, mean = seen.products, seen.inputs / rows
        moment /= rows
        moment -= mean[:, :, None] * mean[:, None]
        diagonal = np.einsum("gcc->gc", moment)
        # The fewer rows there are for each unknown, the less their moments say.
        ridge = RIDGE * max(1.0, contraction.columns / rows)
        diagonal += ridge * diagonal.mean(axis=1, keepdims=True) + 1e-12
        each = contraction.columns // math.prod(contraction.kernel)
        yield Gram(moment, contraction.blocks(), mean, np.arange(contraction.columns) % each)


def sums(
    model: ir.Model,
    read: Sequence[Contraction],
    samples: Samples,
    count: int,
    generator: np.random.Generator,
    open_session: Callable[[ir.Model], Session],
    places: int | None = None,
    batch: int = 16,
) -> list[Sums]:
    """Return for each contraction the sums over what it reads of all samples.

    Args:
        model: Any model; it is not changed.
        read: Contractions of its main graph, `measurable` ones.
        samples: Read once.
        count: How many samples these are.
        generator: Chooses places of convolutions.
        open_session: Opens a model on the target.
        places: Of each sample, where a convolution is seen, at most, and products are seen at all of theirs; None: as
            many as `PRODUCTS` allows.
        batch: Samples in one run, where the model takes any number.

    Raises:
        RunError: The model does not run on the samples.
    """
    made = {contraction.data for contraction in read if contraction.data.producer() is not None}
    names = sorted(value.name or "" for value in made)
    session = open_session(truncated(model, names)) if names else None
    result = [
        Sums(np.zeros((each.groups, each.columns, each.columns)), np.zeros((each.groups, each.columns)))
        for each in read
    ]
    for piece in samples.batches(batch):
        values = {**piece.feeds, **(session.run(piece.feeds) if session is not None else {})}
        for contraction, total in zip(read, result, strict=True):
            data = values[contraction.data.name or ""]
            available = place_count(contraction, data)
            share = available
            if places is None:
                most = int(PRODUCTS / (contraction.groups * contraction.columns**2))
                share = max(1, most // count if contraction.kernel else most * piece.count // count)
            elif contraction.kernel:
                share = places
            chosen = np.arange(available)
            if share < available:
                chosen = np.sort(generator.choice(available, share, replace=False))
            rows = input_rows(contraction, data, chosen).astype(np.float32, copy=False)
            total.products += rows.transpose(0, 2, 1) @ rows
            total.inputs += rows.sum(axis=1, dtype=np.float64)
            total.rows += rows.shape[1]
    return result
