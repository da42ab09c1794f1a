"""Energy per inference, from the counters of the processor (RAPL) or the GPU (NVML)."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Measured
from onnxslim.runtime.target import Target

POWERCAP = pathlib.Path("/sys/class/powercap")
"""Folder of the RAPL counters of Intel and AMD processors in Linux."""


@dataclasses.dataclass(frozen=True)
class Counter:
    """A counter of consumed energy."""

    source: str
    """Name of the counter, for reports."""
    read: Callable[[], float]
    """Returns millijoules since an arbitrary start."""
    wraps_at: float | None = None
    """Millijoules after which the counter wraps to zero; None: never."""


def rapl_counters(folder: pathlib.Path = POWERCAP) -> tuple[Counter, ...] | str:
    """Return one counter per processor package, or the reason why there is none.

    Zones other than packages are skipped: cores and memory are parts of packages, and the platform includes them.
    Source: Linux, Documentation/power/powercap/powercap.rst: ``energy_uj`` in microjoules, wraps at
    ``max_energy_range_uj``.
    """
    if not folder.is_dir():
        return "no RAPL counters here"
    counters = []
    for zone in sorted(folder.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if ":" in zone.name.partition(":")[2] or not name.startswith("package"):
                continue
            file = zone / "energy_uj"
            limit = int((zone / "max_energy_range_uj").read_text()) / 1e3
            int(file.read_text())  # readable by root only on most systems
        except PermissionError:
            return f"the RAPL counters may not be read: {zone / 'energy_uj'} is for root alone"
        except (OSError, ValueError) as error:
            return f"the RAPL counters cannot be read: {error}"
        counters.append(Counter(f"RAPL {name}", functools.partial(_read_microjoules, file), limit))
    return tuple(counters) or "no RAPL counters here"


def _read_microjoules(file: pathlib.Path) -> float:
    return int(file.read_text()) / 1e3


def nvml_counters(load: Callable[[str], Any] = ctypes.CDLL) -> tuple[Counter, ...] | str:
    """Return the counter of the first GPU, or the reason why there is none; `load` opens a shared library by name.

    Source: NVML API reference, nvmlDeviceGetTotalEnergyConsumption: millijoules since the driver was loaded (Volta and
    newer).
    """
    try:
        nvml = load("libnvidia-ml.so.1")
    except OSError:
        return "no NVML here: libnvidia-ml.so.1 cannot be opened"
    device = ctypes.c_void_p()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(0), ctypes.byref(device)):
        return "NVML finds no device"

    def read() -> float:
        total = ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(total)):
            raise OSError("this GPU does not count its energy")
        return float(total.value)

    try:
        read()
    except OSError as error:
        return str(error)
    return (Counter("NVML device 0", read),)


def energy_source(target: Target) -> tuple[str | None, str | None]:
    """Return (names of the energy counters of `target`, None), or (None, reason) if there are none."""
    counters = _counters(target)
    return (None, counters) if isinstance(counters, str) else (", ".join(counter.source for counter in counters), None)


def _counters(target: Target) -> tuple[Counter, ...] | str:
    if target.facts.energy == "nvml":
        return nvml_counters()
    if target.facts.energy == "rapl":
        return rapl_counters()
    return f"no energy counters of {target.facts.title} are known"


def measure_energy(
    session: Session,
    feeds: Mapping[str, Any],
    *,
    seconds: float = 1.0,
    counters: tuple[Counter, ...] | str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Return the millijoules per inference: the energy of the processor packages or the GPU during many runs.

    Counters are updated every millisecond (RAPL) to 100 ms (NVML), so many runs are needed. Other load on the machine
    is included.

    Args:
        session: A session of the model on the target whose counters are read.
        feeds: As for `Session.run`.
        seconds: Duration of the measurement.
        counters: The counters, or the reason why there are none; None: those of the target.
        clock: Returns the time in seconds.

    Raises:
        RunError: The model does not run on `feeds`.
    """
    available = _counters(session.target) if counters is None else counters
    if isinstance(available, str):
        return Measured(None, available)
    call = session.prepare(feeds)
    call()
    runs = 0
    try:
        start = [counter.read() for counter in available]
        end = clock() + seconds
        while runs == 0 or clock() < end:
            call()
            runs += 1
        used = [counter.read() - first for counter, first in zip(available, start, strict=True)]
    except OSError as error:
        return Measured(None, f"the energy counters failed: {error}")
    # counters wrap after minutes, so at most once during the measurement
    spent = [
        step + (counter.wraps_at or 0.0) if step < 0 else step for counter, step in zip(available, used, strict=True)
    ]
    if sum(spent) <= 0:
        return Measured(None, "the energy counters stood still")
    return Measured(sum(spent) / runs)
