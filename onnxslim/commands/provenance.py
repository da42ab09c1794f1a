"""Writes into a model how it was made, so that it can be made again."""

from __future__ import annotations

import hashlib
import os
import pathlib
from concurrent.futures import Future, ThreadPoolExecutor

import onnx_ir as ir

from onnxslim.installation import version

PREFIX = "onnxslim."


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal digits."""
    digest = hashlib.sha256()
    with pathlib.Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hashing(path: str | os.PathLike[str]) -> Future[str]:
    """Begin to hash a file as `sha256` does, beside whatever else is done; the answer is in the future's result."""
    executor = ThreadPoolExecutor(1)
    future = executor.submit(sha256, path)
    executor.shutdown(wait=False)
    return future


def sign(model: ir.Model, *, passes: str, seed: int, max_drop: float | None, input_sha256: str | None) -> None:
    """Write into the metadata of a result how it was made: passes as ``-p`` takes them, seed, budget, and its input.

    `input_sha256` is the hash of the file that came in; None for a model that was handed over in memory.
    """
    entries = {"version": version(), "passes": passes, "seed": str(seed)}
    if max_drop is not None:
        entries["max_drop"] = repr(max_drop)
    if input_sha256 is not None:
        entries["input_sha256"] = input_sha256
    for key in [key for key in model.metadata_props if key.startswith(PREFIX)]:
        del model.metadata_props[key]
    model.metadata_props.update({PREFIX + key: value for key, value in entries.items()})
