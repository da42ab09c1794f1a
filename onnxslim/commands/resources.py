"""What it takes to run a model: cold start, memory, energy; a reason stands beside what could not be measured."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from onnxslim.errors import RunError
from onnxslim.runtime.energy import measure_energy
from onnxslim.runtime.latency import ColdStart, Latency
from onnxslim.runtime.memory import peak_memory
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import cold_start


def resource_figures(
    path: pathlib.Path, session: Session, feeds: Mapping[str, Any], latency: Latency | None
) -> dict[str, Any]:
    """Return cold start, peak memory and energy of a model, as a file and opened, under the keys of `Figures`.

    Reasons are included. `latency` is what was timed of it, which may hold a cold start; None: nothing was.
    """
    memory, energy = peak_memory(path, feeds, session.target), measure_energy(session, feeds)
    cold, reason = cold_figures(latency, path, feeds, session.target)
    return {
        "load_ms": cold.load_ms if cold else None,
        "first_run_ms": cold.first_run_ms if cold else None,
        "peak_memory_bytes": None if memory.value is None else round(memory.value),
        "energy_mj": energy.value,
        "load_reason": reason,
        "first_run_reason": reason,
        "peak_memory_reason": memory.reason,
        "energy_reason": energy.reason,
    }


def unmeasured_resources(reason: str) -> dict[str, Any]:
    """Return what `resource_figures` does where nothing is measured, for one reason."""
    values = dict.fromkeys(("load_ms", "first_run_ms", "peak_memory_bytes", "energy_mj"))
    return values | dict.fromkeys(("load_reason", "first_run_reason", "peak_memory_reason", "energy_reason"), reason)


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
