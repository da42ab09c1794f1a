"""Sources of samples: arrays in memory, sequences of files, and generator functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxslim.arrays import Indices
from onnxslim.data.samples import Batch, BatchLayout
from onnxslim.data.table import ArrayTable, LazyArray, fit_table
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.runtime.session import TensorSpec


@dataclasses.dataclass(frozen=True)
class TableSequence:
    """A concatenation of tables, such as the files of a folder, whose arrays are read when needed."""

    tables: tuple[ArrayTable, ...]
    layout: BatchLayout

    @classmethod
    def of(cls, tables: Sequence[ArrayTable]) -> TableSequence:
        """Return the concatenation of `tables`, at least one.

        Raises:
            DataError: The tables have different layouts.
        """
        first = tables[0]
        for table in tables[1:]:
            if table.layout != first.layout:
                raise DataError(
                    f"this file holds its samples in another way than {first.where}",
                    where=table.where,
                    hint="either all files have labels or none, and all have samples along the same axis",
                )
        return cls(tuple(tables), first.layout)

    @property
    def count(self) -> int:
        """Number of samples in all tables."""
        return sum(table.count for table in self.tables)

    def read(self, indices: Indices | None, size: int) -> Iterator[Batch]:
        """Yield the samples at `indices` in that order (None: all), `size` at a time; files are read whole once."""
        indices = np.arange(self.count, dtype=np.int64) if indices is None else indices
        direct = len(self.tables) == 1 or all(table.in_any_order for table in self.tables)
        return self._read(indices, size) if direct else in_order(indices, size, self._read)

    def _read(self, indices: Indices, size: int) -> Iterator[Batch]:
        starts = np.cumsum([0] + [table.count for table in self.tables])
        owners = np.searchsorted(starts, indices, side="right") - 1
        begin = 0
        while begin < len(indices):
            owner = owners[begin]
            end = begin + 1
            while end < min(begin + size, len(indices)) and owners[end] == owner:
                end += 1
            yield self.tables[owner].read(indices[begin:end] - starts[owner])
            begin = end


def in_order(indices: Indices, size: int, read: Callable[[Indices, int], Iterator[Batch]]) -> Iterator[Batch]:
    """Yield the samples at `indices` in that order, from a source that is best read in ascending order.

    Where they do not ascend samples come one at a time, and those that are not yet due are kept in memory, at most
    `len(indices)`. `read` yields the samples at ascending positions, at most the given number at a time.
    """
    if not (np.diff(indices) < 0).any():
        yield from read(indices, size)
        return
    order = np.argsort(indices, kind="stable")
    waiting: dict[int, Batch] = {}
    due = 0
    for position, piece in zip(order.tolist(), read(indices[order], 1), strict=False):
        # a copy: a row of an array keeps the whole array alive, and with it all files that were read
        waiting[position] = dataclasses.replace(
            piece, feeds={name: array.copy() for name, array in piece.feeds.items()}
        )
        while due in waiting:
            yield waiting.pop(due)
            due += 1
    yield from (waiting[position] for position in sorted(waiting))  # a stream may be shorter the next time


MAX_YIELDED = 50_000
"""Limit of the samples that are read from a function, which may be endless."""


class FunctionSource:
    """Samples from a function that yields dicts of arrays, each a batch or one sample; called for every reading."""

    def __init__(self, function: Callable[[], Iterable[Any]], inputs: Sequence[TensorSpec], where: str) -> None:
        self._function = function
        self._inputs = tuple(inputs)
        self._where = where
        self._count: int | None = None
        first = next(self._fitted(), None)
        if first is None:
            hint = "it must yield a dict of arrays for each sample"
            raise DataError("the function yields nothing", where=where, hint=hint)
        self._layout = first.layout

    @property
    def layout(self) -> BatchLayout:
        """Layout of the first dict, which all must have."""
        return self._layout

    @property
    def count(self) -> int:
        """Number of samples, not much more than `MAX_YIELDED`; the function is read to its end once."""
        if self._count is None:
            for _ in self._tables():
                pass
        assert self._count is not None, "the tables were read to their end"
        return self._count

    def read(self, indices: Indices | None, size: int) -> Iterator[Batch]:
        """Yield the samples of a new call of the function at `indices`, in that order (None: all), `size` at a time."""
        if indices is None:
            for table in self._tables():
                yield from TableSequence((table,), table.layout).read(None, size)
        else:
            yield from in_order(indices, size, self._read)

    def _read(self, indices: Indices, size: int) -> Iterator[Batch]:
        start = consumed = 0
        for table in self._tables():
            end = int(np.searchsorted(indices, start + table.count, side="left"))
            if end > consumed:
                yield from TableSequence((table,), table.layout).read(indices[consumed:end] - start, size)
            start, consumed = start + table.count, end
            if consumed == len(indices):
                return

    def _tables(self) -> Iterator[ArrayTable]:
        """Yield the tables of a new call up to `MAX_YIELDED` samples, and set the count."""
        total = 0
        for table in self._fitted():
            if table.layout != self._layout:
                raise DataError(
                    "the function yields samples that are held in different ways",
                    where=table.where,
                    hint="yield dicts of the same arrays, in the same ranks, each time",
                )
            yield table
            total += table.count
            if total >= MAX_YIELDED:
                break
        self._count = total

    def _fitted(self) -> Iterator[ArrayTable]:
        for index, yielded in enumerate(self._call()):
            where = f"{self._where}, item {index}"
            if not isinstance(yielded, Mapping):
                what = f"the function must yield dicts of arrays, not {type(yielded).__name__}"
                raise DataError(what, where=where, hint="yield {input name: array, ...}")
            arrays = {str(name): LazyArray.of(array) for name, array in yielded.items()}
            yield fit_table(arrays, self._inputs, where, single=True)

    def _call(self) -> Iterator[Any]:
        try:
            yield from self._function()
        except BadOptionValue:
            raise
        except Exception as error:  # the user's code, any exception
            what = f"the function raised {type(error).__name__}: {error}"
            raise DataError(what, where=self._where, hint="call it by itself to see where that comes from") from error
