"""Figures that took time to measure, kept on disk for the next run on the same machine: small JSON files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping

FOLDER_VARIABLE = "ONNXSLIM_CACHE"
"""The environment variable that names the folder."""


def cache_folder() -> pathlib.Path:
    """Return the folder of the cache: ``$ONNXSLIM_CACHE``, else ``onnxslim`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Source: XDG Base Directory Specification; a variable that is empty counts as not set.
    """
    own = os.environ.get(FOLDER_VARIABLE)
    if own:
        return pathlib.Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        return (pathlib.Path(shared) if shared else pathlib.Path.home() / ".cache") / "onnxslim"
    except RuntimeError:  # nobody has a home here: nothing is kept
        return pathlib.Path(os.devnull) / "onnxslim"


class Cache:
    """Numbers by name that hold under certain circumstances.

    Whatever goes wrong with the file is as if it were not there: it is read as far as it makes sense, and what cannot
    be written is measured again next time.

    Args:
        what: What the numbers are, as part of the file's name.
        circumstances: What they depend on: another value of any of these is another file.
        folder: Where the file lies; None: `cache_folder`.
    """

    def __init__(self, what: str, circumstances: Mapping[str, str | int], folder: pathlib.Path | None = None) -> None:
        self._circumstances = dict(circumstances)
        digest = hashlib.sha256(json.dumps(self._circumstances, sort_keys=True).encode()).hexdigest()[:16]
        self.path = (folder or cache_folder()) / f"{what}-{digest}.json"
        self._numbers = self._read()

    def get(self, name: str) -> float | None:
        """Return the number called `name`, or None."""
        return self._numbers.get(name)

    def update(self, numbers: Mapping[str, float]) -> None:
        """Keep `numbers`, here and on disk; those that another process wrote meanwhile stay."""
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
            if not self.path.is_file():  # reading a pipe never ends
                return {}
            held = json.loads(self.path.read_text(encoding="utf-8"))
            if held["circumstances"] != self._circumstances:
                return {}
            return {
                str(name): float(number)
                for name, number in held["numbers"].items()
                if isinstance(number, int | float) and math.isfinite(number) and number > 0
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            return {}
