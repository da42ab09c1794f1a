"""Maps a file of weights into memory once for all of its tensors.

The IR maps the whole file for every tensor, so a model needs its size times the number of its tensors of address space:
2.4 GB with some hundred tensors exceed the 14 GB that a container may allow.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import pathlib
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.nesting import every_graph


class MappedFile:
    """A file that is mapped at the first read, and stays mapped while one of its tensors exists."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    @functools.cached_property
    def content(self) -> mmap.mmap:
        """The bytes of the file.

        Raises:
            OSError: The file cannot be read.
        """
        with self.path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with _LOCK:
            _MAPPED.add(self)
        return content


_MAPPED: weakref.WeakSet[MappedFile] = weakref.WeakSet()
"""Files that are mapped."""
_LOCK = threading.Lock()
"""Held while they are added or listed: models may be opened in several threads."""


def release_pages() -> None:
    """Take what was read of mapped files out of the memory of this process: it is read anew where it is needed."""
    advice = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows
    if advice is None:
        return
    with _LOCK:
        files = list(_MAPPED)
    for file in files:
        with contextlib.suppress(OSError):  # pages that are locked stay
            file.content.madvise(advice)


class MappedTensor(ir.ExternalTensor):
    """An external tensor that shares the map of its file with other tensors."""

    def __init__(self, tensor: ir.ExternalTensor, file: MappedFile) -> None:
        super().__init__(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir=tensor.base_dir,
        )
        self._file = file

    def numpy(self) -> npt.NDArray[Any]:
        """Return the values as a read-only view of the file."""
        if self.dtype.bitwidth < 8 or not self.size:
            return super().numpy()  # packed or empty
        dtype = np.dtype(self.dtype.numpy()).newbyteorder("<")
        flat = np.frombuffer(self._file.content, dtype=dtype, offset=self.offset or 0, count=self.size)
        return flat.reshape(self.shape.numpy())

    def tobytes(self) -> bytes:
        """Return the bytes of the tensor in the file."""
        start = self.offset or 0
        return self._file.content[start : start + (self.length or self.nbytes)] if self.size else b""


def in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a tensor that lies in a file as one in memory, and any other as it is."""
    return copied(tensor) if isinstance(tensor, ir.ExternalTensor) else tensor


def copied(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Return a copy of a tensor, of any type but strings, in memory."""
    return ir.Tensor(
        np.array(tensor.numpy()),
        dtype=tensor.dtype,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


class SpilledTensor(MappedTensor):
    """A weight in a temporary file, which is none of the model's own (`onnxslim.model.spilling`)."""


def share_maps(model: ir.Model) -> None:
    """Replace external initializers by tensors that share the map of their file; `base_dir` must be set."""
    files: dict[pathlib.Path, MappedFile] = {}
    for graph in every_graph(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                path = pathlib.Path(tensor.path)
                value.const_value = MappedTensor(tensor, files.setdefault(path, MappedFile(path)))
