"""Finds passes by name: `onnxslim.passes.<name>` holds the pass `<name>`. Nothing is registered by hand."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil

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
        raise UnknownPass(f"there is no pass named {name!r}", where="-p", hint=hint)
    module = importlib.import_module(f"{PACKAGE}.{name}")
    for _, member in inspect.getmembers(module, inspect.isclass):
        if issubclass(member, Pass) and not inspect.isabstract(member) and member.name == name:
            return member
    raise UnknownPass(f"the module {PACKAGE}.{name} defines no pass named {name!r}", where="-p")
