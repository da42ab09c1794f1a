"""Checkpoints: a training that was killed goes on where it was, and ends as it would have ended."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxslim.arrays import Array
from onnxslim.errors import UsageError
from onnxslim.model.writing import writing

KEPT, BEST = "state/", "best/"
ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on."""

    fingerprint: str
    """Of what is trained, on what and how: a checkpoint of another training is none of this."""
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


def read_checkpoint(path: pathlib.Path, fingerprint: str) -> Checkpoint | None:
    """Read a checkpoint; None where there is no file.

    Raises:
        UsageError: The file is no checkpoint, or that of another training.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(ABOUT))
            arrays = {
                str(name): np.lib.format.read_array(io.BytesIO(archive.read(f"{number}.npy")), allow_pickle=False)
                for number, name in enumerate(about["names"])
            }
            found = Checkpoint(
                str(about["fingerprint"]),
                int(about["step"]),
                {name[len(KEPT) :]: array for name, array in arrays.items() if name.startswith(KEPT)},
                {name[len(BEST) :]: array for name, array in arrays.items() if name.startswith(BEST)},
                dict(about["progress"]),
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError("this is no checkpoint", where=path, hint="name another file, or delete this one") from error
    if found.fingerprint != fingerprint:
        raise UsageError(
            "the checkpoint is that of another training: of another model, other samples or other options",
            where=path,
            hint="delete it to begin anew, or name another file",
        )
    return found
