"""Sources of samples: arrays in memory, files that are opened one after another, and functions that yield."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.data.samples import Batch, Layout
from onnxslim.data.table import Stored, Table, fit_table
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.runner.session import TensorSpec


@dataclasses.dataclass(frozen=True)
class Tables:
    """Tables behind each other, such as the files of a folder; their arrays are read when their turn comes."""

    tables: tuple[Table, ...]
    layout: Layout

    @classmethod
    def of(cls, tables: Sequence[Table]) -> Tables:
        """Put `tables`, at least one, behind each other.

        Raises:
            DataError: They do not hold their samples in the same way.
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
        """The number of samples in all tables."""
        return sum(table.count for table in self.tables)

    def pieces(self, size: int) -> Iterator[Batch]:
        """Yield all samples in order, at most `size` at a time."""
        return self.read(np.arange(self.count, dtype=np.int64), size)

    def read(self, indices: npt.NDArray[np.int64], size: int) -> Iterator[Batch]:
        """Yield the samples at `indices`, at most `size` at a time; sorted indices open every file once."""
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


class Yielded:
    """What a function yields: dicts of arrays, each a batch or one sample. It is called anew for every reading."""

    def __init__(self, function: Callable[[], Iterable[Any]], inputs: Sequence[TensorSpec], where: str) -> None:
        self._function = function
        self._inputs = tuple(inputs)
        self._where = where
        first = next(self._tables(), None)
        if first is None:
            raise DataError("the function yields nothing", where=where)
        self._layout = first.layout

    @property
    def layout(self) -> Layout:
        """How the first dict holds its samples; all must do the same."""
        return self._layout

    @property
    def count(self) -> None:
        """Not known before the function has run to its end."""
        return None

    def pieces(self, size: int) -> Iterator[Batch]:
        """Call the function and yield its samples in order, at most `size` at a time."""
        for table in self._tables():
            if table.layout != self._layout:
                raise DataError("the function yields samples that are held in different ways", where=table.where)
            yield from Tables((table,), table.layout).pieces(size)

    def _tables(self) -> Iterator[Table]:
        for index, yielded in enumerate(self._call()):
            where = f"{self._where}, item {index}"
            if not isinstance(yielded, Mapping):
                raise DataError(
                    f"the function must yield dicts of arrays, not {type(yielded).__name__}",
                    where=where,
                    hint="yield {input name: array, ...}",
                )
            arrays = {str(name): Stored.of(array) for name, array in yielded.items()}
            yield fit_table(arrays, self._inputs, where, single=True)

    def _call(self) -> Iterator[Any]:
        try:
            yield from self._function()
        except BadOptionValue:
            raise
        except Exception as error:  # the user's code, any exception
            raise DataError(f"the function raised {type(error).__name__}: {error}", where=self._where) from error
