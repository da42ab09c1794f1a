"""Finds passes by name: `onnxslim.passes.<name>` holds the pass `<name>`. Nothing is registered by hand."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import typing

from onnxslim.errors import UnknownPass
from onnxslim.pipeline.interface import Pass

PACKAGE = "onnxslim.passes"


def pass_names() -> tuple[str, ...]:
    """Return the names of all passes that are installed, sorted."""
    package = importlib.import_module(PACKAGE)
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def find_pass(name: str) -> type[Pass]:
    """Return the class of the pass `name`.

    Raises:
        UnknownPass: No module of that name lies under `onnxslim.passes`.
    """
    names = pass_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the passes are: {', '.join(names)}"
        raise UnknownPass(f"there is no pass named {name!r}", hint=hint)
    module = importlib.import_module(f"{PACKAGE}.{name}")
    for member in vars(module).values():
        if typing.get_origin(member) is not None:
            continue  # Python 3.10 takes list[int] for a class
        if isinstance(member, type) and issubclass(member, Pass) and getattr(member, "name", None) == name:
            return member
    raise UnknownPass(
        f"the module {PACKAGE}.{name} defines no pass named {name!r}",
        hint="it must define a class with that name as its `name`",
    )
