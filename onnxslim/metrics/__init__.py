"""The metrics, one per module: the module `x` defines the metric `x`."""

from __future__ import annotations

import pkgutil


def metric_names() -> tuple[str, ...]:
    """Return the sorted names of all metrics, without importing them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
