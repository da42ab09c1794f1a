"""Rows of an array that lies in a local file as it is in memory: read when they are needed, and the others never."""

from __future__ import annotations

import dataclasses
import functools
import math
import zipfile
from typing import Any, BinaryIO

import numpy as np

from onnxslim.arrays import Array, Indices

PIECE = 1 << 16
"""Bytes of a member of an archive that are read at a time to see that it is whole."""


@dataclasses.dataclass(frozen=True)
class FileRegion:
    """Where something lies in a local file, as it is: not compressed, not encrypted."""

    path: str
    start: int = 0
    """Of its first byte in the file."""
    member: str | None = None
    """Its name, in an archive."""

    @functools.cached_property
    def is_whole(self) -> bool:
        """True: what archives tell the checksum of is read to its end, a piece at a time, when this is asked first.

        Raises:
            zipfile.BadZipFile: It is damaged.
        """
        if self.member is not None:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as content:
                while content.read(PIECE):
                    pass
        return True


def member_region(path: str, file: BinaryIO, member: zipfile.ZipInfo) -> FileRegion | None:
    """Return where in an archive the content of a member lies; None where it is not stored as it is.

    The header in front of it is that of section 4.3.7 of PKWARE's APPNOTE: 30 bytes, a name and an extra field, whose
    lengths are the last two numbers of the 30 bytes.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        return None
    file.seek(member.header_offset)
    header = file.read(30)
    lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    return FileRegion(path, member.header_offset + 30 + sum(lengths), member.filename)


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array whose rows lie one behind the other."""

    region: FileRegion
    offset: int
    """Bytes in front of the first row, in that region: the header of the array."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, indices: Indices) -> Array:
        """Return some rows; those that lie together are read in one go.

        Raises:
            OSError: The file cannot be read, or has become shorter.
            zipfile.BadZipFile: What is stored is damaged.
        """
        assert self.region.is_whole
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        if not result.nbytes:
            return result
        content = result.reshape(-1).view(np.uint8).data
        ends = [*(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
        with open(self.region.path, "rb") as file:
            begin = 0
            for end in ends:
                file.seek(self.region.start + self.offset + int(indices[begin]) * size)
                if file.readinto(content[begin * size : end * size]) != (end - begin) * size:
                    raise OSError("the file has become shorter")
                begin = end
        return result
