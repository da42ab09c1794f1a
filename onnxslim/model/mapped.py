"""Maps a file of weights once, however many tensors lie in it.

The IR maps the whole file for each tensor, so that the address space that a model takes is the product of its size and
the number of its tensors: 2.4 GB with some hundred tensors do not fit into the 14 GB that a container may allow.
"""

from __future__ import annotations

import mmap
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.model.nesting import every_graph


class MappedFile:
    """A file that is mapped when it is first read, and as long as a tensor of it is there."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None

    def content(self) -> mmap.mmap:
        """Return the bytes of the file.

        Raises:
            OSError: It cannot be read.
        """
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map


class MappedTensor(ir.ExternalTensor):
    """A tensor in a file of weights that other tensors lie in as well."""

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
        """Return the numbers, a read-only view of the file."""
        if self.dtype.bitwidth < 8 or not self.size:
            return super().numpy()  # they are packed, or none
        kind = np.dtype(self.dtype.numpy()).newbyteorder("<")
        flat = np.frombuffer(self._file.content(), dtype=kind, offset=self.offset or 0, count=self.size)
        return flat.reshape(self.shape.numpy())

    def tobytes(self) -> bytes:
        """Return the bytes as they lie in the file."""
        start = self.offset or 0
        return self._file.content()[start : start + (self.length or self.nbytes)] if self.size else b""


def share_maps(model: ir.Model) -> None:
    """Let the initializers that lie in one file share its map. `base_dir` of the tensors must be right."""
    files: dict[pathlib.Path, MappedFile] = {}
    for graph in every_graph(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                path = pathlib.Path(tensor.path)
                value.const_value = MappedTensor(tensor, files.setdefault(path, MappedFile(path)))
