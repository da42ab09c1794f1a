"""Finds metrics by name: `onnxslim.metrics.<name>` holds the metric `<name>`. Nothing is registered by hand."""

from __future__ import annotations

import difflib
import importlib
import inspect

from onnxslim.errors import BadOptionValue
from onnxslim.quality.metric import Metric

PACKAGE = "onnxslim.metrics"


def metric_names() -> tuple[str, ...]:
    """Return the names of all metrics that are installed, sorted."""
    names: tuple[str, ...] = importlib.import_module(PACKAGE).metric_names()
    return names


def find_metric(name: str) -> type[Metric]:
    """Return the class of the metric `name`.

    Raises:
        BadOptionValue: No module of that name lies under `onnxslim.metrics`, or it defines no such metric.
    """
    names = metric_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        listed = f"the metrics are: {', '.join(names)}; or module:function"
        hint = f"did you mean {close[0]}? {listed}" if close else listed
        raise BadOptionValue(f"there is no metric named {name!r}", where="--metric", hint=hint)
    module = importlib.import_module(f"{PACKAGE}.{name}")
    for member in vars(module).values():
        if inspect.isclass(member) and issubclass(member, Metric) and getattr(member, "name", None) == name:
            return member
    raise BadOptionValue(
        f"the module {PACKAGE}.{name} defines no metric named {name!r}",
        where="--metric",
        hint="it must define a class with that name as its `name`",
    )
