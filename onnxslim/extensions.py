"""The passes, metrics, sources of samples and providers that are installed: entry points, ours like those of others.

A distribution declares them in its ``pyproject.toml``. Nothing of it is imported before one is named or listed::

    [project.entry-points."onnxslim.passes"]
    halve = "my_package.halve:Halve"
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib.metadata
import inspect
import pathlib
import re
import sys
from typing import Any, TypeVar

from onnxslim.errors import ExtensionError
from onnxslim.foreign_code import foreign_code
from onnxslim.installation import DISTRIBUTION
from onnxslim.toml import tomllib

NAME = re.compile(r"[A-Za-z_][\w-]*")
"""Names that can be written on the command line; extensions with others are not seen."""
CHECKOUT = pathlib.Path(__file__).resolve().parent.parent / "pyproject.toml"
"""Declares ours where onnxslim runs from its source: what is installed may be older."""


T = TypeVar("T")


class Group(enum.Enum):
    """What can be added; the value is the group of the entry points."""

    PASSES = "onnxslim.passes"
    METRICS = "onnxslim.metrics"
    SOURCES = "onnxslim.sources"
    PROVIDERS = "onnxslim.providers"


@dataclasses.dataclass(frozen=True)
class Extension:
    """One pass, metric, source or provider, as a distribution declares it."""

    name: str
    value: str
    """Where it is: ``module:attribute``, or a module."""
    distribution: str

    @property
    def ours(self) -> bool:
        """Whether it comes with onnxslim."""
        return self.distribution == DISTRIBUTION


def extension_names(group: Group, *, ours: bool = False) -> tuple[str, ...]:
    """Return the names that are declared in a group, sorted; with `ours` those that come with onnxslim."""
    return tuple(sorted({extension.name for extension in _declared(group, tuple(sys.path)) if extension.ours >= ours}))


def find_extension(group: Group, name: str) -> Extension | None:
    """Return what is declared under a name; None if nothing is.

    Raises:
        ExtensionError: Several distributions declare the name.
    """
    found = [extension for extension in _declared(group, tuple(sys.path)) if extension.name == name]
    if len(found) > 1:
        owners = " and ".join(sorted(extension.distribution for extension in found))
        others = [extension.distribution for extension in found if not extension.ours]
        raise ExtensionError(
            f"{name} in {group.value} is declared by {owners}",
            hint=f"the name must be unique: uninstall {others[0]}, or ask its authors for another name",
        )
    return found[0] if found else None


def load_extension(group: Group, extension: Extension) -> Any:
    """Import an extension and return it.

    Raises:
        ExtensionError: It cannot be imported.
    """
    entry_point = importlib.metadata.EntryPoint(extension.name, extension.value, group.value)
    if extension.ours:
        return entry_point.load()
    try:
        with foreign_code(extension.distribution):
            return entry_point.load()
    except Exception as error:  # the module may raise any exception
        raise broken(group, extension, f"importing it raised {type(error).__name__}: {error}") from error


def load_class(group: Group, extension: Extension, base: type[T]) -> type[T]:
    """Import an extension that is a subclass of `base`, with its own name as ``name``, and return it.

    Raises:
        ExtensionError: It cannot be imported, or is something else.
    """
    found = load_extension(group, extension)
    if not (isinstance(found, type) and issubclass(found, base)) or inspect.isabstract(found):
        raise broken(group, extension, f"it is no subclass of onnxslim.{base.__name__} with all its methods")
    if getattr(found, "name", None) != extension.name:
        raise broken(group, extension, f"its name is {getattr(found, 'name', None)!r}, not {extension.name!r}")
    return found


def broken(group: Group, extension: Extension, why: str) -> ExtensionError:
    """Return the error that an extension cannot be used."""
    return ExtensionError(
        f"{extension.name} in {group.value} cannot be used: {why}",
        where=f"the distribution {extension.distribution} ({extension.value})",
        hint=f"update or uninstall {extension.distribution}, or tell its authors",
    )


@functools.cache
def _declared(group: Group, path: tuple[str, ...]) -> tuple[Extension, ...]:
    """Return what all distributions on `path`, which is ``sys.path``, declare in a group."""
    found = [] if (ours := _of_checkout()) is None else [*ours.get(group.value, ())]
    for entry_point in importlib.metadata.entry_points(group=group.value):
        distribution = "?" if entry_point.dist is None else entry_point.dist.name
        if ours is None or distribution != DISTRIBUTION:
            found.append(Extension(entry_point.name, entry_point.value, distribution))
    return tuple(dict.fromkeys(extension for extension in found if NAME.fullmatch(extension.name)))


@functools.cache
def _of_checkout() -> dict[str, list[Extension]] | None:
    """Return ours by group as the source declares them; None if onnxslim is installed as a package."""
    if not CHECKOUT.is_file():
        return None
    project = tomllib.loads(CHECKOUT.read_text(encoding="utf-8")).get("project", {})
    if project.get("name") != DISTRIBUTION:
        return None
    groups = project["entry-points"].items()
    return {
        group: [Extension(name, value, DISTRIBUTION) for name, value in declared.items()] for group, declared in groups
    }
