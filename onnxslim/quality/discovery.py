"""Finds metrics by name: entry points of the group ``onnxslim.metrics``."""

from __future__ import annotations

from onnxslim.errors import BadOptionValue, did_you_mean
from onnxslim.extensions import Group, extension_names, find_extension, load_class
from onnxslim.quality.metric import Metric


def find_metric(name: str) -> type[Metric]:
    """Return the class of the metric `name`.

    Raises:
        BadOptionValue: No metric of that name is installed.
        ExtensionError: It comes from another distribution, and cannot be used.
    """
    extension = find_extension(Group.METRICS, name)
    if extension is None:
        names = extension_names(Group.METRICS)
        hint = f"{did_you_mean(name, names)}the metrics are: {', '.join(names)}; or module:function"
        raise BadOptionValue(f"there is no metric named {name!r}", where="--metric", hint=hint)
    return load_class(Group.METRICS, extension, Metric)  # type: ignore[type-abstract]  # it returns subclasses
