"""Models as they are downloaded: files compressed with zstd (RFC 8878), written, measured and read within bounds."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

from onnxslim.errors import ModelNotFound, ModelUnreadable

SUFFIX = ".zst"
LEVEL = 3
"""zstd's default. Higher levels find repetitions, of which weights have none: level 19 takes a hundred times as long,
and makes weights of ResNets, OCR and MiniLM smaller by less than 0.5 %."""
BLOCK = 1 << 18
"""Bytes that are handled at once."""
LARGEST = 1 << 31
"""Bytes of a model that protobuf can read."""
ALWAYS = 1 << 26
"""Bytes that any file may expand to."""
MOST_TIMES = 256
"""A larger one may expand to so many times its size: weights do by less than 2, and half-empty ones by 10."""
WINDOW = 1 << 27
"""Bytes that a file may demand for the window of decompression: what ``zstd`` itself accepts without being asked."""
HINT = "unpack it with zstd -d, or download it again"


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Whether the name of a file says that it is compressed."""
    return os.fspath(path).lower().endswith(SUFFIX)


def load(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a model that is a file, compressed or not, as ONNX Runtime takes them in place of a path.

    ``onnxruntime.InferenceSession(onnxslim.load("model.onnx.zst"))``; so does ``onnx.load_from_string``. Weights
    in a file of their own are not found from there.

    Args:
        path: An ONNX file; one whose name ends with ``.zst`` is decompressed. How much memory that takes is bounded by
            the size of the file.

    Raises:
        ModelNotFound: There is no such file.
        ModelUnreadable: It is no zstd file, it is damaged, or it would expand to more than what is read.
    """
    path = pathlib.Path(path)
    try:
        return b"".join(_blocks(path)) if is_compressed(path) else path.read_bytes()
    except (FileNotFoundError, ValueError) as error:
        raise ModelNotFound("no such file", where=path, hint="check the path") from error
    except OSError as error:
        raise ModelUnreadable(
            f"cannot be read: {error.strerror or error}", where=path, hint="check the file"
        ) from error


def decompress(path: pathlib.Path, target: pathlib.Path) -> None:
    """Write the model of a compressed file to `target`.

    Raises:
        ModelUnreadable: As `load` does.
        OSError: A file cannot be read or written.
    """
    with target.open("wb") as file:
        for block in _blocks(path):
            file.write(block)


def plain_bytes(path: pathlib.Path) -> int:
    """Return the bytes of a model file, decompressed.

    Raises:
        ModelUnreadable: As `load` does.
        OSError: The file cannot be read.
    """
    return sum(map(len, _blocks(path))) if is_compressed(path) else path.stat().st_size


def compressed_bytes(path: pathlib.Path) -> int:
    """Return the bytes of a file once it is compressed, as `compress` would write it; nothing is written.

    Raises:
        OSError: The file cannot be read.
    """
    return path.stat().st_size if is_compressed(path) else sum(map(len, _compressed(path)))


def compress(path: pathlib.Path, target: pathlib.Path) -> None:
    """Write a file to `target`, compressed: the same bytes in every run of one version of zstd.

    Raises:
        OSError: A file cannot be read or written.
    """
    with target.open("wb") as file:
        for block in _compressed(path):
            file.write(block)


def _compressed(path: pathlib.Path) -> Iterator[bytes]:
    import zstandard

    packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    with path.open("rb") as file:
        yield from packer.read_to_iter(file, size=path.stat().st_size, read_size=BLOCK, write_size=BLOCK)


def _blocks(path: pathlib.Path) -> Iterator[bytes]:
    """Yield the content of a compressed file, and check that it is all there and no more than it may be."""
    import zstandard

    limit = min(LARGEST, max(ALWAYS, MOST_TIMES * path.stat().st_size))
    total = 0
    try:
        expected = _content_size(path)
        if expected is not None and expected > limit:
            raise _too_large(path, expected, limit)
        with path.open("rb") as file:
            unpacker = zstandard.ZstdDecompressor(max_window_size=WINDOW)
            with unpacker.stream_reader(file, read_size=BLOCK, read_across_frames=True) as reader:
                while block := reader.read(BLOCK):
                    total += len(block)
                    if total > limit:
                        raise _too_large(path, total, limit)
                    yield block
    except zstandard.ZstdError as error:
        raise ModelUnreadable(f"this is no zstd file, or it is damaged: {error}", where=path, hint=HINT) from error
    if expected is not None and total < expected:
        raise ModelUnreadable(f"it ends after {total:,} of {expected:,} bytes", where=path, hint=HINT)


def _content_size(path: pathlib.Path) -> int | None:
    """Return how large the content is, as the file says, None where it does not."""
    import zstandard

    with path.open("rb") as file:
        head = file.read(18)  # RFC 8878, 3.1.1: magic number and frame header
    size = zstandard.get_frame_parameters(head).content_size
    return None if size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR) else size


def _too_large(path: pathlib.Path, size: int, limit: int) -> ModelUnreadable:
    return ModelUnreadable(
        f"it would expand to {size:,} bytes or more, and at most {limit:,} are read of a file of its size",
        where=path,
        hint="if you trust it, unpack it with zstd -d",
    )
