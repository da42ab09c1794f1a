"""Writes files whole or not at all: in a hidden folder beside the target, then renamed into place."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from onnxslim.errors import OutputError


@contextlib.contextmanager
def writing_beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a hidden folder beside `path` to write into; it is removed in any case.

    Raises:
        OutputError: Nothing can be written there.
    """
    folder = None
    if not path.parent.is_dir():
        raise OutputError(
            f"cannot be written: there is no folder {path.parent}", where=path, hint="make it first, or choose another"
        )
    try:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield folder
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            hint="is the folder there and writable, and is there room on the disk?",
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
