"""How fast a model is, warm and cold, as it stands in reports."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from onnxslim.errors import RunError
from onnxslim.pipeline.records import Percentiles
from onnxslim.runtime.latency import ColdStart, Latency
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import cold_start


def percentiles(latency: Latency) -> Percentiles:
    """Return a latency as a record."""
    return Percentiles(latency.p50, latency.p95, latency.p99, latency.quantiles)


def cold_figures(
    latency: Latency | None, path: pathlib.Path, feeds: Mapping[str, Any], target: Target
) -> tuple[ColdStart | None, str | None]:
    """Return the cold start of the model at `path`, or why there is none; it may have come with `latency`."""
    if latency is not None and latency.cold is not None:
        return latency.cold, None
    try:
        return cold_start(path, feeds, target), None
    except RunError as error:
        return None, f"not measured: {error.what}"
