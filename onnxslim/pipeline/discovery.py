"""Finds passes by name: entry points of the group ``onnxslim.passes``."""

from __future__ import annotations

from onnxslim.errors import UnknownPass, did_you_mean
from onnxslim.extensions import Group, broken, extension_names, find_extension, load_class
from onnxslim.pipeline.interface import Kind, Pass


def pass_names(*, ours: bool = False) -> tuple[str, ...]:
    """Return the names of all passes that are installed, sorted; with `ours` of those that come with onnxslim."""
    return extension_names(Group.PASSES, ours=ours)


def find_pass(name: str) -> type[Pass]:
    """Return the class of the pass `name`.

    Raises:
        UnknownPass: No pass of that name is installed.
        ExtensionError: It comes from another distribution, and cannot be used.
    """
    extension = find_extension(Group.PASSES, name)
    if extension is None:
        names = pass_names()
        hint = did_you_mean(name, names).strip() or f"the passes are: {', '.join(names)}"
        raise UnknownPass(f"there is no pass named {name!r}", hint=hint)
    found = load_class(Group.PASSES, extension, Pass)  # type: ignore[type-abstract]  # it returns subclasses
    if not isinstance(getattr(found, "kind", None), Kind):
        raise broken(Group.PASSES, extension, "its kind is no onnxslim.Kind")
    return found
