"""Samples: a repeatable stream of batches that fit a model's inputs, with random subsets and splits."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np

from onnxslim.arrays import Array, Indices
from onnxslim.errors import DataError


@dataclasses.dataclass(frozen=True)
class Batch:
    """The samples of one run."""

    feeds: dict[str, Array]
    """One array per input of the model, with its type and rank."""
    labels: Array | None = None
    """The labels of the samples along the first axis; None without labels."""
    count: int = 1
    """Number of samples."""


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """How samples are combined into feeds."""

    batch: int | None
    """Number of samples that the model takes at a time; None: any number."""
    shared: frozenset[str] = frozenset()
    """Inputs without a batch axis, which are unchanged when samples are joined."""
    labelled: bool = False


@dataclasses.dataclass(frozen=True)
class Subset:
    """Number of samples used for one purpose, drawn at random over the whole source."""

    purpose: Annotated[str, "who used them, and what for: quant: calibration"]
    used: Annotated[int, "how many samples were used"]
    of: Annotated[int, "how many there were to draw from"]


class Source(Protocol):
    """A repeatable source of samples, read in order or at given positions."""

    @property
    def layout(self) -> BatchLayout:
        """How its samples are combined into feeds."""

    @property
    def count(self) -> int:
        """Number of samples. A stream is read to its end to count them."""

    def read(self, indices: Indices | None, size: int) -> Iterator[Batch]:
        """Yield the samples at `indices`, in their order (None: all, in the source's), at most `size` at a time."""


@dataclasses.dataclass(frozen=True)
class SampleSubset:
    """The samples of a source at given positions."""

    inner: Source
    indices: Indices

    @property
    def layout(self) -> BatchLayout:  # noqa: D102  the protocol says it
        return self.inner.layout

    @property
    def count(self) -> int:  # noqa: D102  the protocol says it
        return len(self.indices)

    def read(self, indices: Indices | None, size: int) -> Iterator[Batch]:  # noqa: D102  the protocol says it
        return self.inner.read(self.indices if indices is None else self.indices[indices], size)


@dataclasses.dataclass(frozen=True)
class TrialRun:
    """Outputs and duration of the first run of a model on its first sample."""

    session: weakref.ref[Any]
    """The session of the run. The outputs hold for this session only."""
    outputs: Mapping[str, Any]
    seconds: float


class Samples:
    """Samples that fit a model, made by `open_samples` and `synthetic_samples`. They are read lazily."""

    def __init__(self, origin: Source, source: str, *, synthetic: bool = False, joined: bool = True) -> None:
        self._origin = origin
        self._joined = joined
        self.source = source
        """Name of the source, for messages and reports."""
        self.synthetic = synthetic
        """Whether the samples are synthetic, so that they show nothing about fidelity on real data."""

    def __repr__(self) -> str:
        return f"<samples from {self.source}>"

    @property
    def count(self) -> int:
        """Number of samples. A stream is read to its end, once, to count them.

        If the model has a fixed batch size, the last samples that do not fill a batch are not counted.
        """
        count, batch = self._origin.count, self._origin.layout.batch
        return count if batch is None else count // batch * batch

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the model declares; None: any."""
        return self._origin.layout.batch

    @property
    def labelled(self) -> bool:
        """Whether the samples have labels, so that accuracy can be measured."""
        return self._origin.layout.labelled

    @property
    def trial_run(self) -> TrialRun | None:
        """The run of the model on the first sample, if one was made to find sizes that work."""
        return getattr(self._origin, "trial_run", None)

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield all samples, `size` at a time (None: 1); the last batch may be smaller.

        A fixed batch size of the model overrides `size`, and samples that do not fill the last batch are left out. Of
        `one_by_one` the size is 1. Samples of different shapes never share a batch.

        Raises:
            DataError: A file cannot be read, or a value does not fit the type of its input.
        """
        layout = self._origin.layout
        batch_size = layout.batch or (size if self._joined else None) or 1
        pending: list[Batch] = []
        for piece in self._origin.read(None, batch_size):
            if pending and not _alike(pending[-1], piece, layout.shared):
                if layout.batch is None:
                    yield _join(pending, layout.shared)
                pending = []
            pending.append(piece)
            total = sum(batch.count for batch in pending)
            if total >= batch_size:
                joined = _join(pending, layout.shared)
                yield _cut(joined, 0, batch_size, layout.shared) if total > batch_size else joined
                pending = [_cut(joined, batch_size, total, layout.shared)] if total > batch_size else []
        if pending and layout.batch is None:
            yield _join(pending, layout.shared)

    def one_by_one(self) -> Samples:
        """Return the same samples for a model that takes only one at a time, whatever its inputs declare."""
        return Samples(self._origin, self.source, synthetic=self.synthetic, joined=False)

    def first(self, count: int = 1) -> dict[str, Array]:
        """Return the feeds of the first batch of at most `count` samples, fewer if their shapes differ.

        Raises:
            DataError: There are no samples, or they cannot be read.
        """
        for batch in self.batches(count):
            return batch.feeds
        raise DataError("there is not a single sample", where=self.source, hint="look into what the samples come from")

    def number(self, index: int) -> int:
        """Return the position in the source of sample `index`, both counted from 0."""
        origin, position = self._origin, index
        while isinstance(origin, SampleSubset):
            position, origin = int(origin.indices[position]), origin.inner
        return position

    def draw(self, count: int, generator: np.random.Generator | None = None) -> Samples:
        """Return `count` samples (or all), drawn at random over the whole source, in random order.

        One sample is drawn from each of `count` equally long stretches of the source, so every class has its share
        even if the source is sorted by class. The random order mixes the classes within each batch.

        Args:
            count: Number of samples, rounded up to whole batches if the model has a fixed batch size.
            generator: Random generator; None: a fixed seed.

        Raises:
            DataError: The samples cannot be counted because a stream breaks off.
        """
        generator = generator or np.random.default_rng(0)
        batch = self._origin.layout.batch or 1
        limit = min(-(-count // batch) * batch, self.count)
        drawn = generator.permutation(draw_positions(self._origin.count, limit, generator))
        return self._part(drawn)

    def take(self, positions: Indices) -> Samples:
        """Return the samples at `positions`, in their order."""
        return self._part(positions)

    def split(self, fraction: float, generator: np.random.Generator | None = None) -> tuple[Samples, Samples]:
        """Return two parts of the samples: about `fraction` of them, and the rest, both in the order of the source.

        The smaller part is drawn at random, one sample from each of as many equally long stretches of the source, so
        both parts contain every class even if the source is sorted by class.

        Args:
            fraction: Share of the first part, between 0 and 1 exclusive.
            generator: Random generator; None: a fixed seed.

        Raises:
            DataError: There are fewer than two batches, so one part would be empty.
            ValueError: `fraction` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction {fraction} leaves one part empty")
        count, batch = self.count, self._origin.layout.batch or 1
        if count < 2 * batch:
            hint = "give more samples, or give --val"
            raise DataError(f"{count} samples cannot be divided in two", where=self.source, hint=hint)
        units = count // batch  # a fixed batch size wastes no samples if whole batches go to one side
        share = min(units - 1, max(1, round(units * fraction))) * batch
        fewer = draw_positions(count, min(share, count - share), generator or np.random.default_rng(0))
        rest = np.setdiff1d(np.arange(count, dtype=np.int64), fewer, assume_unique=True)
        first, second = (fewer, rest) if len(fewer) == share else (rest, fewer)
        return self._part(first), self._part(second)

    def _part(self, positions: Indices) -> Samples:
        subset = SampleSubset(self._origin, positions)
        return Samples(subset, self.source, synthetic=self.synthetic, joined=self._joined)


def draw_positions(total: int, count: int, generator: np.random.Generator) -> Indices:
    """Return `count` of `total` positions, ascending, one from each of `count` stretches of nearly equal length.

    Source: Cochran, "Sampling Techniques", section 8.4: stratified sampling with one unit per stratum.
    """
    edges = np.arange(count + 1, dtype=np.int64) * total // max(count, 1)
    return generator.integers(edges[:-1], edges[1:])


def _alike(left: Batch, right: Batch, shared: frozenset[str]) -> bool:
    """Return whether two batches can be joined: equal shapes except for the first axis, and equal shared inputs."""
    for name, array in left.feeds.items():
        counterpart = right.feeds[name]
        if name in shared:
            if not np.array_equal(array, counterpart):
                return False
        elif array.shape[1:] != counterpart.shape[1:]:
            return False
    first, second = left.labels, right.labels
    return first is None or second is None or first.shape[1:] == second.shape[1:]


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
    """Return the samples `start` to `stop` of a batch in which every sample is one row."""
    feeds = {name: array if name in shared else array[start:stop] for name, array in batch.feeds.items()}
    return Batch(feeds, None if batch.labels is None else batch.labels[start:stop], stop - start)
