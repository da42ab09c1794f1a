"""Tables of arrays, fitted to a model's inputs: the axis of the samples, and the types."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxslim.arrays import Array, Indices
from onnxslim.data.samples import Batch, BatchLayout
from onnxslim.errors import DataError
from onnxslim.runtime.session import TensorSpec

LABELS = "labels"
"""Name of the array of labels, unless the model has an input of that name."""


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array with a known header, loaded when needed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array]
    read_rows: Callable[[Indices], Array] | None = None
    """Reads some of the rows without the others; None: where that is not possible."""

    def rows(self, indices: Indices) -> Array:
        """Return some of the rows."""
        if self.read_rows is not None:
            return self.read_rows(indices)
        array = self.load()
        contiguous = len(indices) > 0 and bool((np.diff(indices) == 1).all())
        return array[indices[0] : indices[-1] + 1] if contiguous else array[indices]

    @classmethod
    def of(cls, array: npt.ArrayLike) -> LazyArray:
        """Return an array in memory as a lazy array."""
        loaded = np.asarray(array)
        return cls(loaded.shape, loaded.dtype, lambda: loaded)


class SampleAxis(enum.Enum):
    """The position of the samples in the array of one input."""

    ROWS = "rows"
    """Rank of the input: the first axis is the batch axis of the input."""
    WHOLE = "whole"
    """Rank of the input + 1: the first axis counts whole inputs."""
    SINGLE = "single"
    """Rank of the input - 1: one sample without its batch axis (files and dicts with one sample)."""
    CONSTANT = "constant"
    """A scalar for a scalar input: the same for every sample."""


@dataclasses.dataclass(frozen=True)
class Column:
    """The samples of one input."""

    spec: TensorSpec
    stored: LazyArray
    form: SampleAxis
    scale: LazyArray | None
    offset: LazyArray | None
    stride: int = 1
    """Number of rows per sample (`SampleAxis.ROWS` only)."""

    def rows(self) -> int | None:
        """Return the length of the axis of the samples; None for a constant."""
        if self.form is SampleAxis.CONSTANT:
            return None
        return 1 if self.form is SampleAxis.SINGLE else self.stored.shape[0]

    def take(self, indices: npt.NDArray[np.int64], where: str) -> Array:
        """Return the samples at `indices` as one feed with the type of the input."""
        if self.form is SampleAxis.ROWS:
            array = self.stored.rows((indices[:, None] * self.stride + np.arange(self.stride)).ravel())
        elif self.form is SampleAxis.WHOLE:
            array = np.asarray(self.stored.rows(indices[:1])[0])  # a sample of a scalar input is a numpy scalar
        else:
            array = self.stored.load()
            array = array[np.newaxis] if self.form is SampleAxis.SINGLE else array
        if self.scale is not None:
            scaled = array.astype(np.float32) * self.scale.load().astype(np.float32)
            array = scaled if self.offset is None else scaled + self.offset.load().astype(np.float32)
        return convert(array, self.spec, where)


@dataclasses.dataclass(frozen=True)
class ArrayTable:
    """Arrays with a common sample axis: one file, one mapping, or one dict of a function."""

    columns: tuple[Column, ...]
    labels: LazyArray | None
    count: int
    layout: BatchLayout
    where: str

    @property
    def in_any_order(self) -> bool:
        """Whether samples are read one here and one there without reading the others each time."""
        arrays = [*(column.stored for column in self.columns if column.form is not SampleAxis.CONSTANT)]
        arrays += [] if self.labels is None else [self.labels]
        return self.count == 1 or all(array.read_rows is not None for array in arrays)

    def read(self, indices: npt.NDArray[np.int64]) -> Batch:
        """Return the samples at `indices` as one batch (a single index if samples are whole inputs)."""
        feeds = {column.spec.name: column.take(indices, self.where) for column in self.columns}
        if self.labels is None:
            return Batch(feeds, None, len(indices))
        if not self.labels.shape:
            return Batch(feeds, self.labels.load().reshape(1)[indices], len(indices))
        per_sample = self.labels.shape[0] // self.count
        rows = (indices[:, None] * per_sample + np.arange(per_sample)).ravel()
        return Batch(feeds, self.labels.rows(rows), len(indices))


def fit_table(
    arrays: Mapping[str, LazyArray], inputs: Sequence[TensorSpec], where: str, *, single: bool = False
) -> ArrayTable:
    """Return a table of `arrays` for `inputs`; only names, shapes and types are read.

    An array with the rank of its input holds samples along the first axis; with one rank more it holds whole inputs; a
    scalar for a scalar input holds for every sample. ``<input>.scale`` and ``<input>.offset`` (broadcastable to a
    sample) mean value = stored * scale + offset, in float32. For a model with one input, the only array besides the
    labels may have any name.

    If all inputs have the same batch size, or none is fixed, every row is a sample. Otherwise (a state [2, N, 128]
    beside an input [N, 512]) a sample is a whole run: an input with a fixed first dimension takes that many rows.

    Args:
        arrays: Arrays by name.
        inputs: Inputs of the model.
        where: File or function, for messages.
        single: Accept arrays of one rank less than their inputs as one sample without batch axis.

    Raises:
        DataError: A name is missing or unknown, or a rank, dimension, count or type does not fit.
    """
    arrays = _renamed(arrays, inputs)
    names = [spec.name for spec in inputs]
    labels = None if LABELS in names else arrays.get(LABELS)
    extras = {f"{name}.{suffix}" for name in names for suffix in ("scale", "offset")} - set(names)
    takes = f"the model takes: {', '.join(names)}; labels go into an array named {LABELS!r}"
    for name in names:
        if name not in arrays:
            raise DataError(f"there is no array for the input {name!r}", where=where, hint=takes)
    for name in arrays:
        if name not in names and name not in extras and name != LABELS:
            raise DataError(f"the array {name!r} belongs to no input", where=where, hint=takes)
    columns = tuple(_column(spec, arrays, where, single) for spec in inputs)
    by_row = _by_row(columns)
    batch = next((s.shape[0] for s in inputs if s.shape and isinstance(s.shape[0], int)), None) if by_row else 1
    if not by_row:
        columns = _with_strides(columns)
    counts = {column.spec.name: rows // column.stride for column in columns if (rows := column.rows()) is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} holds {count}" for name, count in counts.items())
        hint = "give as many samples in each array, along the first axis"
        raise DataError(f"the arrays hold different numbers of samples: {listed}", where=where, hint=hint)
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise DataError("there is not a single sample", where=where, hint="look into what the samples come from")
    if labels is not None:
        length = labels.shape[0] if labels.shape else 1
        if length < count or length % count:
            hint = "give one label for each sample, along the first axis"
            raise DataError(f"there are {length} labels for {count} samples", where=where, hint=hint)
    shared = frozenset(column.spec.name for column in columns if column.form is SampleAxis.CONSTANT)
    return ArrayTable(columns, labels, count, BatchLayout(batch, shared, labels is not None), where)


def _renamed(arrays: Mapping[str, LazyArray], inputs: Sequence[TensorSpec]) -> dict[str, LazyArray]:
    """Return `arrays`, with the name of the only input for the only array."""
    named = dict(arrays)
    if len(inputs) != 1 or inputs[0].name in named:
        return named
    plain = [name for name in named if name != LABELS and not name.endswith((".scale", ".offset"))]
    if len(plain) != 1:
        return named
    return {
        inputs[0].name + name[len(plain[0]) :]
        if name in (plain[0], f"{plain[0]}.scale", f"{plain[0]}.offset")
        else name: array
        for name, array in named.items()
    }


def _column(spec: TensorSpec, arrays: Mapping[str, LazyArray], where: str, single: bool) -> Column:
    stored, scale, offset = (arrays.get(spec.name + suffix) for suffix in ("", ".scale", ".offset"))
    assert stored is not None, "the caller checked that every input has its array"
    place = f"{where}: {spec.name}"
    if spec.dtype is None:
        what = "this input is no tensor of a type that numpy has; it cannot be fed from data"
        raise DataError(what, where=place, hint="make the model take tensors, or go on without --data")
    if offset is not None and scale is None:
        hint = "store the scale beside it: value = stored * scale + offset"
        raise DataError(f"there is an offset without a scale: {spec.name}.scale is missing", where=place, hint=hint)
    check_dtype(np.dtype(np.float32) if scale is not None else stored.dtype, spec, place)
    rank, input_rank = len(stored.shape), len(spec.shape)
    if input_rank == 0:  # ONNX Runtime reports a scalar and an input of unknown rank alike
        form = SampleAxis.CONSTANT if rank == 0 else SampleAxis.WHOLE if rank == 1 else SampleAxis.ROWS
        return Column(spec, stored, form, scale, offset)
    forms = {input_rank: SampleAxis.ROWS, input_rank + 1: SampleAxis.WHOLE}
    if single:
        forms[input_rank - 1] = SampleAxis.SINGLE
    what = f"an array of shape {_shape(stored.shape)} does not fit an input of shape {_shape(spec.shape)}"
    if rank not in forms:
        raise DataError(what, where=place, hint="samples lie along the first axis")
    form = forms[rank]
    expected = spec.shape if form is SampleAxis.WHOLE else spec.shape[1:]
    given = stored.shape if form is SampleAxis.SINGLE else stored.shape[1:]
    for size, expected_size in zip(given, expected, strict=True):
        if isinstance(expected_size, int) and size != expected_size:
            hint = "give samples of the size that the input declares"
            raise DataError(f"{what}: {size} is not {expected_size}", where=place, hint=hint)
    return Column(spec, stored, form, scale, offset)


def _shape(shape: Sequence[object]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _by_row(columns: Sequence[Column]) -> bool:
    """Return whether every row is a sample: all first dimensions are free, or all are fixed at the same size."""
    firsts = {column.spec.shape[0] for column in columns if column.spec.shape}
    fixed = {size for size in firsts if isinstance(size, int)}
    return all(column.form is not SampleAxis.WHOLE for column in columns) and (
        not fixed or (firsts == fixed and len(fixed) == 1)
    )


def _with_strides(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return `columns` with the rows per run; rows of free dimensions are divided equally among the runs."""
    strided = [dataclasses.replace(column, stride=_fixed_rows(column) or 1) for column in columns]
    counted = [column for column in strided if column.form is SampleAxis.WHOLE or _fixed_rows(column)]
    runs = min((column.stored.shape[0] // column.stride for column in counted), default=0)
    result = []
    for column in strided:
        free = column.form is SampleAxis.ROWS and not _fixed_rows(column)
        if free and runs and column.stored.shape[0] % runs == 0:
            column = dataclasses.replace(column, stride=max(1, column.stored.shape[0] // runs))
        result.append(column)
    return tuple(result)


def _fixed_rows(column: Column) -> int:
    """Return how many rows a run takes; 0 where the first dimension of the input is free, or samples are no rows."""
    size = column.spec.shape[0] if column.spec.shape and column.form is SampleAxis.ROWS else None
    return size if isinstance(size, int) else 0


def kind(dtype: np.dtype[Any]) -> str:
    """Return ``f`` (floats, bfloat16 too), ``i`` (integers), ``b`` (bool), ``s`` (strings) or ``?``."""
    if dtype.kind == "V":  # types of ml_dtypes, which numpy treats as raw bytes
        return "f" if dtype.name.startswith(("bfloat", "float")) else "?"
    return {"f": "f", "i": "i", "u": "i", "b": "b", "U": "s", "O": "s"}.get(dtype.kind, "?")


SAFE = {("f", "f"), ("i", "i"), ("b", "b"), ("b", "i"), ("s", "s")}
"""Pairs of kinds (stored, input) that preserve values; the range is checked when values are read."""


def check_dtype(dtype: np.dtype[Any], spec: TensorSpec, where: str) -> None:
    """Check that values of `dtype` may be fed to `spec`.

    Raises:
        DataError: The conversion would change the meaning of values.
    """
    assert spec.dtype is not None, "the caller checked that the input is a tensor"
    if (kind(dtype), kind(spec.dtype)) in SAFE:
        return
    hint = None
    if (kind(dtype), kind(spec.dtype)) == ("i", "f"):
        hint = f"store {spec.name}.scale (and {spec.name}.offset) beside it: value = stored * scale + offset"
    raise DataError(f"an array of {dtype.name} cannot be fed to an input of {spec.dtype.name}", where=where, hint=hint)


def convert(array: Array, spec: TensorSpec, where: str) -> Array:
    """Return `array` with the type of `spec`, contiguous.

    Raises:
        DataError: A value does not fit: an integer is out of range, or a number becomes infinite.
    """
    assert spec.dtype is not None, "the caller checked that the input is a tensor"
    if array.dtype == spec.dtype:
        return array if array.flags.c_contiguous else np.ascontiguousarray(array).reshape(array.shape)
    with np.errstate(over="ignore"):
        result = np.asarray(array, order="C").astype(spec.dtype)
    fits = True
    if kind(spec.dtype) == "f":
        fits = np.array_equal(np.isfinite(array), np.isfinite(result.astype(np.float64)))
    elif kind(spec.dtype) == kind(array.dtype) == "i" and array.size:
        limits = np.iinfo(spec.dtype)
        fits = limits.min <= int(array.min()) and int(array.max()) <= limits.max
    if not fits:
        what = f"the array for the input {spec.name!r} has values that do not fit {spec.dtype.name}"
        raise DataError(what, where=where, hint="store its values within the range of the input's type")
    return result
