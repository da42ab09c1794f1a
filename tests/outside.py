"""Distributions of other people, as they lie in ``site-packages`` when they are installed."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"


def install(
    folder: pathlib.Path, name: str, files: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]
) -> pathlib.Path:
    """Write a distribution into `folder`, which is then to be put on the module path, and return `folder`.

    Args:
        folder: The folder; it may hold other distributions.
        name: Of the distribution.
        files: Text of its files, by path.
        entry_points: What it declares: by group, then by name.
    """
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA.format(name=name), encoding="utf-8")
    lines = [
        line
        for group, declared in entry_points.items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in declared.items()), "")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder
