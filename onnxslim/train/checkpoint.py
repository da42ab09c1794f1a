"""Checkpoints: a training that was killed goes on where it was, and ends as it would have ended."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxslim.arrays import Array
from onnxslim.errors import UsageError
from onnxslim.model.writing import check_place, writing

KEPT, BEST = "state/", "best/"
ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on."""

    fingerprint: str
    """Of the model, on what it is trained, and how: a checkpoint of another training is none of this."""
    student: str
    """Of the weights at the beginning: one run may train several students, which were cut differently."""
    step: int
    """Steps that are done."""
    state: Mapping[str, Array]
    """Weights and states of the optimiser."""
    best: Mapping[str, Array]
    """The weights of the best evaluation."""
    progress: Mapping[str, Any]
    """What was found out so far, as JSON has it."""


def write_checkpoint(path: pathlib.Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OutputError: It cannot be written.
    """
    arrays = {KEPT + name: array for name, array in checkpoint.state.items()}
    arrays |= {BEST + name: array for name, array in checkpoint.best.items()}
    about = {
        "fingerprint": checkpoint.fingerprint,
        "student": checkpoint.student,
        "step": checkpoint.step,
        "progress": checkpoint.progress,
        "names": list(arrays),
    }
    with writing(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(ABOUT, json.dumps(about))
        for number, array in enumerate(arrays.values()):  # names of a model are no names of files
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(f"{number}.npy", buffer.getbuffer())


def read_checkpoint(path: pathlib.Path, fingerprint: str, student: str) -> Checkpoint | None:
    """Read a checkpoint; None where there is no file, or that of another student of the same training.

    Raises:
        OutputError: No file can be written there.
        UsageError: The file is no checkpoint, or that of another training.
    """
    check_place(path)
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(_member(archive, ABOUT, path))
            own = about["fingerprint"] == fingerprint
            if own and about["student"] != student:
                return None
            found = _read(archive, about, path) if own else None
    except Exception as error:  # damaged zip files, JSON and array headers raise nearly any exception
        raise UsageError("this is no checkpoint", where=path, hint="name another file, or delete this one") from error
    if found is None:
        raise UsageError(
            "the checkpoint is that of another training: of another model, other samples or other options",
            where=path,
            hint="delete it to begin anew, or name another file",
        )
    return found


def _read(archive: zipfile.ZipFile, about: Mapping[str, Any], path: pathlib.Path) -> Checkpoint:
    arrays = {str(name): _array(_member(archive, f"{i}.npy", path)) for i, name in enumerate(about["names"])}
    return Checkpoint(
        str(about["fingerprint"]),
        str(about["student"]),
        int(about["step"]),
        {name[len(KEPT) :]: array for name, array in arrays.items() if name.startswith(KEPT)},
        {name[len(BEST) :]: array for name, array in arrays.items() if name.startswith(BEST)},
        dict(about["progress"]),
    )


def _member(archive: zipfile.ZipFile, name: str, path: pathlib.Path) -> bytes:
    """Return a member of an archive, which is no longer than its file: nothing is compressed."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
        raise ValueError(f"{name} is not stored as it is")
    return archive.read(info)


def _array(written: bytes) -> Array:
    """Return an array as numpy writes it. Memory is taken for what is there, and not for what the header says."""
    file = io.BytesIO(written)
    header: Any = np.lib.format  # numpy annotates these functions since 2.3 only
    version_1 = header.read_magic(file) == (1, 0)
    read = header.read_array_header_1_0 if version_1 else header.read_array_header_2_0
    shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize != len(written) - file.tell():
        raise ValueError(f"an array of shape {shape} has other bytes")
    file.seek(0)
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array
