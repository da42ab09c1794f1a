"""Second moments of what contractions read: Gram matrices of the rows of their inputs, summed in double precision.

`sums` streams them over samples; `grams` makes of them what least squares wants. Of a contraction with more columns
than `WIDE` `grams` holds the rows themselves, fewer of them than there are columns: all that is asked of the moments
can be had from the products of rows, at a fraction of the time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.analysis.contraction import Contraction
from onnxslim.arrays import Floats, Mask, Singles
from onnxslim.data import Samples
from onnxslim.observe.batches import batch_size
from onnxslim.observe.probe import stream_values
from onnxslim.observe.products import BLOCK, add_products, sum_of_rows
from onnxslim.observe.rows import choose_places, input_rows, place_count
from onnxslim.runtime.session import OpenSession

PRODUCTS = 2e9
"""Multiply-accumulates that one Gram matrix may take; it limits the places of a sample that rows are taken of."""
RIDGE = 1e-2
"""What is added to the diagonal, relative to its mean: rows are a sample of what the layer will see."""

WIDE = 1200
"""Contractions with more columns have their rows held."""
FEW = 512
"""How many rows are held of these."""
SINGLE = 1000
"""With more unknowns, equations are solved in single precision; the ridge allows it."""


@dataclasses.dataclass
class Sums:
    """Sums over all rows x that one contraction reads."""

    products: Floats
    """Of x x', shape [groups, columns, columns]."""
    inputs: Floats
    """Of x, shape [groups, columns]."""
    rows: int = 0

    def add(self, rows: Singles) -> None:
        """Add rows, shape [groups, rows, columns]."""
        add_products(self.products, rows, rows)
        self.inputs += sum_of_rows(rows)
        self.rows += rows.shape[1]

    def moments(self) -> tuple[Sequence[Floats], Floats]:
        """Return the moments about the mean, and the mean; the sums are lost."""
        rows = max(self.rows, 1)
        moment, mean = self.products, self.inputs / rows
        moment /= rows
        _take_off(moment, mean, mean)
        diagonal = np.einsum("gcc->gc", moment)
        diagonal += _ridge(rows, moment.shape[1]) * diagonal.mean(axis=1, keepdims=True) + 1e-12
        return list(moment), mean


def joined_moments(parts: Sequence[Sums], *, about_mean: bool) -> Floats:
    """Return the mean of products over what several contractions read, shape [groups, columns, columns].

    Args:
        parts: Of contractions that share a weight. The products of the first are lost: the mean is made in their place.
        about_mean: Whether each is taken about its own mean, which its bias makes up for.
    """
    total = parts[0].products
    for part in parts:
        if part is not parts[0]:
            total += part.products
        if about_mean:
            mean = part.inputs / max(part.rows, 1)
            _take_off(total, part.rows * mean, mean)
    total /= max(sum(part.rows for part in parts), 1)
    return total


def _take_off(moment: Floats, one: Floats, other: Floats) -> None:
    """Subtract products of means, in place: as many columns at a time as add next to nothing to what is held."""
    for start in range(0, moment.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        moment[:, block] -= one[:, block, None] * other[:, None]


@dataclasses.dataclass(frozen=True)
class Thin:
    """Second moments as few rows: ``rows.T @ rows`` with a ridge on the diagonal."""

    rows: Singles
    """Shape [rows, columns]: about their mean, divided by the root of their number."""
    ridge: float


def thin_moments(pieces: Sequence[Singles]) -> tuple[Sequence[Thin], Floats]:
    """Return the moments of rows about their mean, and the mean; pieces are of shape [groups, rows, columns]."""
    rows = np.concatenate(pieces, axis=1)
    _, count, width = rows.shape
    mean = rows.mean(axis=1, dtype=np.float64)
    rows = (rows - mean[:, None].astype(np.float32)) / np.float32(math.sqrt(count))
    ridges = _ridge(count, width) * np.square(rows, dtype=np.float64).sum(axis=(1, 2)) / width + 1e-12
    return [Thin(group, float(ridge)) for group, ridge in zip(rows, ridges, strict=True)], mean


@dataclasses.dataclass(frozen=True)
class Gram:
    """What a contraction reads, about its mean: a bias makes up for that."""

    moment: Sequence[Floats | Thin]
    """For each group the mean of products of columns, shape [columns, columns], with a ridge on the diagonal."""
    weight: Floats
    """Shape [groups, columns, outputs of a group]."""
    mean: Floats
    """Shape [groups, columns]."""
    channels: npt.NDArray[np.int64]
    """For each column the channel of its group that it reads."""

    @functools.cached_property
    def energy(self) -> float:
        """What the contraction makes of it, squared and summed over all outputs, but for the ridge."""
        return sum(map(_energy, self.moment, self.weight))

    def without(self, columns: Mask) -> Floats:
        """Return the weight that reads nothing of some columns, and comes as near to the outputs as it can.

        Args:
            columns: Which go, shape [groups, columns]; as many in each group.
        """
        fitted = np.zeros_like(self.weight)
        for group, gone in enumerate(columns):
            kept, weight = ~gone, self.weight[group]
            fitted[group, kept] = weight[kept]
            if kept.any() and gone.any():
                fitted[group, kept] += _made_up(self.moment[group], kept, gone, weight[gone])
        return fitted


def _energy(moment: Floats | Thin, weight: Floats) -> float:
    if isinstance(moment, Thin):
        made = moment.rows @ weight.astype(np.float32)
        return float(np.square(made, dtype=np.float64).sum() + moment.ridge * np.square(weight).sum())
    return float(((moment @ weight) * weight).sum())


def _made_up(moment: Floats | Thin, kept: Mask, gone: Mask, weight: Floats) -> Floats:
    """Return what the columns that are kept must read besides to make up for the weight of those that go."""
    if isinstance(moment, Thin):
        rows, missing = moment.rows[:, kept], moment.rows[:, gone] @ weight.astype(np.float32)
        inner = rows @ rows.T + np.float32(moment.ridge) * np.eye(len(rows), dtype=np.float32)
        return (rows.T @ np.linalg.solve(inner, missing)).astype(np.float64)
    kind = np.float32 if kept.sum() > SINGLE else np.float64
    inner, across = moment[np.ix_(kept, kept)].astype(kind), moment[np.ix_(kept, gone)] @ weight
    return np.linalg.solve(inner, across.astype(kind)).astype(np.float64)


def measurable(contraction: Contraction) -> bool:
    """Whether `sums` and `grams` know the rows of a contraction."""
    return contraction.regular and contraction.data.shape is not None


def moment_bytes(contraction: Contraction) -> int:
    """Return how many bytes the moments of a contraction take."""
    columns = contraction.columns
    return contraction.groups * columns * (4 * FEW if columns > WIDE else 8 * columns)


def sums_bytes(contraction: Contraction) -> int:
    """Return how many bytes the sums of a contraction take, however many columns it has."""
    return 8 * contraction.groups * contraction.columns**2


def grams(
    model: ir.Model,
    read: Sequence[Contraction],
    samples: Samples,
    generator: np.random.Generator,
    open_session: OpenSession,
) -> Iterator[Gram]:
    """Yield the Gram matrix of each contraction over all samples; see `sums`.

    Raises:
        RunError: The model does not run on the samples.
    """
    dense = [None if contraction.columns > WIDE else _nothing(contraction) for contraction in read]
    thin: list[list[Singles]] = [[] for _ in read]
    for index, rows in _stream_rows(model, read, samples, None, generator, open_session):
        total = dense[index]
        if total is None:
            thin[index].append(rows)
        else:
            total.add(rows)
    for contraction, total, pieces in zip(read, dense, thin, strict=True):
        moment, mean = thin_moments(pieces) if total is None else total.moments()
        channels = np.arange(contraction.columns) % contraction.channels
        yield Gram(moment, contraction.blocks(), mean, channels)


def sums(
    model: ir.Model,
    read: Sequence[Contraction],
    samples: Samples,
    places: int,
    generator: np.random.Generator,
    open_session: OpenSession,
) -> list[Sums]:
    """Return for each contraction the sums over what it reads of all samples.

    Args:
        model: Any model; it is not changed.
        read: Contractions of its main graph, `measurable` ones.
        samples: Read once.
        places: Of each sample, where a convolution is seen, at most; products are seen at all of theirs.
        generator: Chooses places of convolutions.
        open_session: Opens a model on the target.

    Raises:
        RunError: The model does not run on the samples.
    """
    result = [_nothing(contraction) for contraction in read]
    for index, rows in _stream_rows(model, read, samples, places, generator, open_session):
        result[index].add(rows)
    return result


def _stream_rows(
    model: ir.Model,
    read: Sequence[Contraction],
    samples: Samples,
    places: int | None,
    generator: np.random.Generator,
    open_session: OpenSession,
) -> Iterator[tuple[int, Singles]]:
    """Yield rows, each with the index in `read` of the contraction that reads them; `places` None: as many as
    `PRODUCTS` allows. Pieces are large: the product of few rows is as large a matrix as that of many."""
    waiting: dict[int, list[Singles]] = {}
    names = {contraction.data.name or "" for contraction in read}
    batches = samples.batches(batch_size(model, samples, kept=names))
    for batch, values in stream_values(model, names, batches, open_session):
        for index, contraction in enumerate(read):
            data = values[contraction.data.name or ""]
            share = available = place_count(contraction, data)
            if places is None:
                wide = contraction.columns > WIDE
                most = FEW if wide else int(PRODUCTS / (contraction.groups * contraction.columns**2))
                share = (most if contraction.kernel else most * batch.count) // samples.count
            elif contraction.kernel:
                share = places
            chosen = choose_places(available, share, generator)
            # Of as many samples at a time as fill the matrix of products: windows overlap, and take what data takes
            # once for each place of the kernel.
            height = max(1, contraction.columns // max(1, len(chosen)) if contraction.kernel else len(data))
            for start in range(0, len(data), height):
                rows = input_rows(contraction, data[start : start + height], chosen)
                waiting.setdefault(index, []).append(rows.astype(np.float32, copy=False))
                del rows
                if sum(piece.shape[1] for piece in waiting[index]) > contraction.columns:
                    yield index, _joined(waiting.pop(index))
    for index in list(waiting):
        yield index, _joined(waiting.pop(index))


def _joined(pieces: list[Singles]) -> Singles:
    """Return pieces as one; the list is emptied, so that whoever works on the rows holds them once."""
    joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)
    pieces.clear()
    return joined


def _nothing(contraction: Contraction) -> Sums:
    groups, columns = contraction.groups, contraction.columns
    return Sums(np.zeros((groups, columns, columns)), np.zeros((groups, columns)))


def _ridge(rows: int, columns: int) -> float:
    # The fewer rows there are for each unknown, the less their moments say.
    return RIDGE * max(1.0, columns / rows)
