"""Array files, .npz and .npy, at a path or an fsspec URL: headers are read first, arrays when needed."""

from __future__ import annotations

import contextlib
import functools
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import fsspec
import numpy as np

from onnxslim.arrays import Array, Indices
from onnxslim.data.stored_rows import FileRegion, StoredArray, member_region
from onnxslim.data.table import LazyArray
from onnxslim.errors import DataError, OnnxslimError


class FileCache:
    """A cache of the arrays of one file at a time, emptied when another file is read."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._arrays: dict[str, Array] = {}

    def get(self, path: str, name: str, load: Callable[[], Array]) -> Array:
        """Return the array `name` of the file `path`, loaded once until another file is read."""
        if path != self._path:
            self._path, self._arrays = path, {}
        if name not in self._arrays:
            self._arrays[name] = load()
        return self._arrays[name]


def locate(spec: str) -> tuple[Any, str]:
    """Return the fsspec file system of `spec`, a path or a URL, and the path in it.

    Raises:
        DataError: The protocol is unknown or needs a missing package, or the file does not exist.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(spec)
        found = filesystem.exists(path)
    except (ImportError, ValueError) as error:
        raise DataError(
            str(error), where=spec, hint="the part before :// must be a protocol that fsspec knows"
        ) from error
    except Exception as error:  # remote file systems have exceptions of their own
        hint = "check the address, and that the place can be reached from here"
        raise DataError(f"cannot be reached: {error}", where=spec, hint=hint) from error
    if not found:
        raise DataError("there is no such file or folder", where=spec, hint="check the path")
    check_regular(filesystem, path)
    return filesystem, path


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn any error in the body, which reads an array file, into a DataError."""
    try:
        yield
    except OnnxslimError:
        raise
    except MemoryError as error:
        raise DataError("it does not fit into memory", where=where, hint="is its header damaged?") from error
    except Exception as error:  # damaged zip files and array headers raise nearly any exception
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot be read: {message}", where=where, hint="is the file damaged, or encrypted?") from error


def check_regular(filesystem: Any, path: str) -> None:
    """Check that `path` is not a device or a pipe, which may block or never end.

    Raises:
        DataError: It is a device or a pipe.
    """
    if _is_local(filesystem) and os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise DataError("this is a device or a pipe, not a file", where=path, hint="save it as a file first")


@contextlib.contextmanager
def opened(filesystem: Any, path: str) -> Iterator[BinaryIO]:
    """Open a file for reading; any error in the body becomes a DataError with its name."""
    check_regular(filesystem, path)
    with reading(path), filesystem.open(path, "rb") as file:
        yield cast(BinaryIO, file)


def read_npz(filesystem: Any, path: str, cache: FileCache) -> dict[str, LazyArray]:
    """Return the members of an .npz by name. Only headers are read; arrays are loaded when needed.

    Raises:
        DataError: The file is not an .npz, is truncated, or holds pickled objects.
    """
    with opened(filesystem, path) as file, zipfile.ZipFile(file) as archive:
        members = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")

            def load(name: str = name) -> Array:
                with opened(filesystem, path) as content_file, np.load(content_file, allow_pickle=False) as arrays:
                    return cast(Array, arrays[name])

            region = member_region(path, file, member) if _is_local(filesystem) else None
            with archive.open(member) as content:
                cached = functools.partial(cache.get, path, name, load)
                members[name] = _lazy_array(content, cached, f"{path}: {name}", region)
        return members


def read_npy(filesystem: Any, path: str, cache: FileCache) -> LazyArray:
    """Return the array of an .npy. Only its header is read; the array is loaded when needed.

    Raises:
        DataError: The file is not an .npy, is truncated, or holds pickled objects.
    """

    def load() -> Array:
        with opened(filesystem, path) as content_file:
            return cast(Array, np.load(content_file, allow_pickle=False))

    with opened(filesystem, path) as file:
        region = FileRegion(path) if _is_local(filesystem) else None
        return _lazy_array(file, functools.partial(cache.get, path, "", load), path, region)


def _lazy_array(content: Any, load: Callable[[], Array], where: str, region: FileRegion | None) -> LazyArray:
    """Return the array whose header `content` begins with, and where that lies as it is: None means nowhere."""
    header: Any = np.lib.format  # numpy annotates these functions since 2.3 only
    version_1 = header.read_magic(content) == (1, 0)
    read = header.read_array_header_1_0 if version_1 else header.read_array_header_2_0
    shape, by_columns, dtype = read(content)
    if dtype.hasobject:
        hint = "store plain arrays: numbers, booleans or fixed-length strings"
        raise DataError("pickled objects are refused, since reading them could run code", where=where, hint=hint)
    if region is None or by_columns or not shape:
        return LazyArray(shape, dtype, load)
    stored = StoredArray(region, content.tell(), shape, dtype)

    def read_rows(indices: Indices) -> Array:
        with reading(where):
            return stored.rows(indices)

    return LazyArray(shape, dtype, load, read_rows)


def _is_local(filesystem: Any) -> bool:
    return filesystem.protocol in ("file", ("file", "local"))
