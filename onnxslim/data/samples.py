"""What samples are: a stream of batches that fit a model's inputs, and can be read again, drawn from and split."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxslim.errors import DataError

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Batch:
    """One run's worth of samples."""

    feeds: dict[str, Array]
    """An array for every input of the model, of its type and rank."""
    labels: Array | None = None
    """The samples' labels along the first axis, where there are any."""
    count: int = 1
    """How many samples these are."""


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """How samples are put together into feeds."""

    batch: int | None
    """The model takes exactly this many at a time; None: any number."""
    shared: frozenset[str] = frozenset()
    """Inputs without a batch axis: they stay as they are when samples are joined."""
    labelled: bool = False


@dataclasses.dataclass(frozen=True)
class Subset:
    """How many of the samples were used for something. They were drawn by chance, over the whole source."""

    purpose: Annotated[str, "who used them, and what for: quant: calibration"]
    used: Annotated[int, "how many samples were used"]
    of: Annotated[int, "how many there were to draw from"]


class Source(Protocol):
    """Where samples come from, in order or at given positions, as often as asked."""

    @property
    def layout(self) -> BatchLayout:
        """How its samples go together."""

    @property
    def count(self) -> int:
        """The number of samples. A stream is read to its end to find out."""

    def pieces(self, size: int) -> Iterator[Batch]:
        """Yield all samples in order, at most `size` at a time."""

    def read(self, indices: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """Yield the samples at `indices`, in the order of `indices`, at most `size` at a time."""


@dataclasses.dataclass(frozen=True)
class SampleSubset:
    """Some samples of a source."""

    inner: Source
    indices: npt.NDArray[np.int64]

    @property
    def layout(self) -> BatchLayout:  # noqa: D102  the protocol says it
        return self.inner.layout

    @property
    def count(self) -> int:  # noqa: D102  the protocol says it
        return len(self.indices)

    def pieces(self, size: int) -> Iterator[Batch]:  # noqa: D102  the protocol says it
        return self.inner.read(self.indices, size)

    def read(self, indices: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:  # noqa: D102  the protocol says it
        return self.inner.read(self.indices[indices], size)


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No samples at all: for a run that never runs the model."""

    layout: BatchLayout = BatchLayout(None)
    count: int = 0

    def pieces(self, size: int) -> Iterator[Batch]:  # noqa: D102  the protocol says it
        return iter(())

    def read(self, indices: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:  # noqa: D102  the protocol says it
        return iter(())


@dataclasses.dataclass(frozen=True)
class TrialRun:
    """What a model made of the first sample when it was tried on it."""

    session: weakref.ref[Any]
    """What ran it: to another session, and be it of a model with the same inputs, this tells nothing."""
    outputs: Mapping[str, Any]
    seconds: float


class Samples:
    """Samples that fit a model. Made by `open_samples` and `synthetic_samples`; nothing is read before it is needed."""

    def __init__(self, origin: Source, source: str, *, synthetic: bool = False) -> None:
        self._origin = origin
        self.source = source
        """Where they come from, for people to read."""
        self.synthetic = synthetic
        """Whether they were made up; then they say nothing about fidelity on real data."""

    def __repr__(self) -> str:
        return f"<samples from {self.source}>"

    @property
    def count(self) -> int:
        """How many samples there are. A stream is read to its end, once, to find out.

        Of samples for a model whose batch is fixed at B, the last that do not fill a batch are left out.
        """
        count, batch = self._origin.count, self._origin.layout.batch
        return count if batch is None else count // batch * batch

    @property
    def labelled(self) -> bool:
        """Whether the samples have labels, so that accuracy can be measured."""
        return self._origin.layout.labelled

    @property
    def rehearsal(self) -> TrialRun | None:
        """What the model gave on the first sample, where it was run to find out whether it takes it."""
        return getattr(self._origin, "rehearsal", None)

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield all samples, `size` at a time (None: 1), the last batch may be smaller.

        A model whose batch is fixed gets just that many at a time, whatever `size` says, and what does not fill the
        last batch is left out. Samples of different shapes never share a batch.

        Raises:
            DataError: A file cannot be read, or a value does not fit the type of its input.
        """
        layout = self._origin.layout
        wanted = layout.batch or size or 1
        held: list[Batch] = []
        for piece in self._origin.pieces(wanted):
            if held and not _alike(held[-1], piece, layout.shared):
                if layout.batch is None:
                    yield _join(held, layout.shared)
                held = []
            held.append(piece)
            total = sum(each.count for each in held)
            if total >= wanted:
                joined = _join(held, layout.shared)
                yield _cut(joined, 0, wanted, layout.shared) if total > wanted else joined
                held = [_cut(joined, wanted, total, layout.shared)] if total > wanted else []
        if held and layout.batch is None:
            yield _join(held, layout.shared)

    def first(self, count: int = 1) -> dict[str, Array]:
        """Return the feeds of the first batch of `count` samples (fewer, if there are fewer or their shapes differ).

        Raises:
            DataError: There are no samples, or they cannot be read.
        """
        for batch in self.batches(count):
            return batch.feeds
        raise DataError("there is not a single sample", where=self.source, hint="look into what the samples come from")

    def number(self, index: int) -> int:
        """Return which sample of the source, counted from 0, the `index`-th of these is."""
        origin, at = self._origin, index
        while isinstance(origin, SampleSubset):
            at, origin = int(origin.indices[at]), origin.inner
        return at

    def draw(self, count: int, generator: np.random.Generator | None = None) -> Samples:
        """Return `count` samples drawn by chance over the whole source, in an order drawn by chance; all, if no more.

        One is drawn from each of `count` equally long stretches of the source: of data that lies class by class each
        class gives its share. The order is that of no file, so that no batch and no part of a pass sees one class.

        Args:
            count: How many, rounded up to whole batches where the model fixes them.
            generator: Where the draw comes from; None: always the same draw.

        Raises:
            DataError: The samples cannot be counted: a stream breaks off.
        """
        generator = generator or np.random.default_rng(0)
        batch = self._origin.layout.batch or 1
        limit = min(-(-count // batch) * batch, self.count)
        drawn = generator.permutation(draw_positions(self._origin.count, limit, generator))
        return self._part(drawn)

    def split(self, fraction: float, generator: np.random.Generator | None = None) -> tuple[Samples, Samples]:
        """Divide the samples in two: the first part holds about `fraction` of them, the second the rest.

        The smaller part is drawn by chance, one sample from each of as many equally long stretches of the source, so
        that of data that lies class by class both parts hold every class. Both keep the order of the source.

        Args:
            fraction: The share of the first part, between 0 and 1 exclusive.
            generator: Where the draw comes from; None: always the same draw.

        Raises:
            DataError: There are fewer than two batches, so that one part would be empty.
            ValueError: `fraction` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction {fraction} leaves one part empty")
        count, batch = self.count, self._origin.layout.batch or 1
        if count < 2 * batch:
            raise DataError(
                f"{count} samples cannot be divided in two", where=self.source, hint="give more samples, or give --val"
            )
        units = count // batch  # whole batches go to one side, so that a fixed batch wastes nothing
        share = min(units - 1, max(1, round(units * fraction))) * batch
        fewer = draw_positions(count, min(share, count - share), generator or np.random.default_rng(0))
        rest = np.setdiff1d(np.arange(count, dtype=np.int64), fewer, assume_unique=True)
        first, second = (fewer, rest) if len(fewer) == share else (rest, fewer)
        return self._part(first), self._part(second)

    def _part(self, positions: npt.NDArray[np.int64]) -> Samples:
        return Samples(SampleSubset(self._origin, positions), self.source, synthetic=self.synthetic)


def draw_positions(total: int, count: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return `count` of `total` positions, rising: one drawn from each of `count` stretches of nearly equal length.

    Source: Cochran, "Sampling Techniques", section 8.4: stratified sampling with one unit per stratum.

    Args:
        total: How many positions there are.
        count: How many to draw, at most `total`.
        generator: Where the draw comes from.
    """
    edges = np.arange(count + 1, dtype=np.int64) * total // max(count, 1)
    return generator.integers(edges[:-1], edges[1:])


def _alike(left: Batch, right: Batch, shared: frozenset[str]) -> bool:
    """Whether two pieces can be joined: equal shapes but for the first axis, and equal shared inputs."""
    for name, array in left.feeds.items():
        other = right.feeds[name]
        if name in shared:
            if not np.array_equal(array, other):
                return False
        elif array.shape[1:] != other.shape[1:]:
            return False
    mine, theirs = left.labels, right.labels
    return mine is None or theirs is None or mine.shape[1:] == theirs.shape[1:]


def _join(pieces: Sequence[Batch], shared: frozenset[str]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    feeds = {
        name: array if name in shared else np.concatenate([piece.feeds[name] for piece in pieces])
        for name, array in pieces[0].feeds.items()
    }
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    return Batch(feeds, np.concatenate(labels) if labels else None, sum(piece.count for piece in pieces))


def _cut(batch: Batch, start: int, stop: int, shared: frozenset[str]) -> Batch:
    """Return some samples of a batch in which every sample is one row."""
    feeds = {name: array if name in shared else array[start:stop] for name, array in batch.feeds.items()}
    return Batch(feeds, None if batch.labels is None else batch.labels[start:stop], stop - start)
