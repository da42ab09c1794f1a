"""Runs code that is not ours: what it prints does not mix with our data, and it cannot end the process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from onnxslim.errors import BadOptionValue


def owner(code: object) -> str:
    """Return the name of the package that a class, or the class of an object, comes from."""
    kind = code if isinstance(code, type) else type(code)
    return kind.__module__.partition(".")[0]


def is_ours(code: object) -> bool:
    """Return whether a class, or the class of an object, comes with onnxslim."""
    return owner(code) == __name__.partition(".")[0]


@contextlib.contextmanager
def foreign_code(where: str) -> Iterator[None]:
    """Run foreign code in the body: its output goes to standard error, and ``sys.exit`` is an error.

    Raises:
        BadOptionValue: The body called ``sys.exit``.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except SystemExit as error:
        raise BadOptionValue(
            f"it called sys.exit({error.code!r})",
            where=where,
            hint="let it return, or raise what says why",
        ) from error
