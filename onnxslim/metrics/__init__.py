"""What models are good at: one metric, one file. A module here named `x` holds the metric `x`."""

from __future__ import annotations

import pkgutil


def metric_names() -> tuple[str, ...]:
    """Return the names of all metrics that are installed, sorted. Imports none of them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
