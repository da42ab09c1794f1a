"""A cache of measured numbers on disk, in small JSON files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping

FOLDER_VARIABLE = "ONNXSLIM_CACHE"
"""Environment variable with the folder."""


def cache_folder() -> pathlib.Path:
    """Return the folder of the cache: ``$ONNXSLIM_CACHE``, else ``onnxslim`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    An empty variable counts as not set. Source: XDG Base Directory Specification.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        return pathlib.Path(folder)
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        return (pathlib.Path(shared) if shared else pathlib.Path.home() / ".cache") / "onnxslim"
    except RuntimeError:  # there is no home folder: nothing is cached
        return pathlib.Path(os.devnull) / "onnxslim"


class Cache:
    """Numbers by name that hold under certain circumstances.

    A file that is missing, damaged or not writable is no error: invalid numbers are ignored, and numbers that cannot be
    written are measured again.

    Args:
        what: Kind of the numbers, as part of the file name.
        circumstances: Properties that the numbers depend on; other values give another file.
        folder: Folder of the file; None: `cache_folder`.
    """

    def __init__(self, what: str, circumstances: Mapping[str, str | int], folder: pathlib.Path | None = None) -> None:
        self._circumstances = dict(circumstances)
        digest = hashlib.sha256(json.dumps(self._circumstances, sort_keys=True).encode()).hexdigest()[:16]
        self.path = (folder or cache_folder()) / f"{what}-{digest}.json"
        self._numbers = self._read()

    def get(self, name: str) -> float | None:
        """Return the number `name`, or None."""
        return self._numbers.get(name)

    def update(self, numbers: Mapping[str, float]) -> None:
        """Add `numbers` to the cache and its file, and keep numbers that other processes have written."""
        self._numbers = {**self._read(), **self._numbers, **numbers}
        text = json.dumps({"circumstances": self._circumstances, "numbers": self._numbers}, indent=1)
        name = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=self.path.parent, prefix=".", suffix=".json", delete=False, encoding="utf-8"
            ) as file:
                name = file.name
                file.write(text)
            os.replace(name, self.path)
        except OSError:
            if name is not None:
                pathlib.Path(name).unlink(missing_ok=True)

    def _read(self) -> dict[str, float]:
        try:
            if not self.path.is_file():  # a pipe would block
                return {}
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["circumstances"] != self._circumstances:
                return {}
            return {
                str(name): float(number)
                for name, number in content["numbers"].items()
                if isinstance(number, int | float) and math.isfinite(number) and number > 0
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return {}
