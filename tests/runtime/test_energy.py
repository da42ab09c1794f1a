"""Energy, from counters that are files in a folder and a library that counts up: every figure is known beforehand."""

import ctypes
import pathlib

import pytest

from onnxslim.runtime import energy
from onnxslim.runtime.energy import Counter, energy_source, measure_energy, nvml_counters, rapl_counters
from onnxslim.runtime.target import Target

CPU = Target("cpu", "test", "avx2", 1)
CUDA = Target("cuda", "test", "avx2", 1)


class Worker:
    """Stands for a session; a run takes a second and 250 mJ."""

    target = CPU

    def __init__(self) -> None:
        self.now, self.used = 0.0, 900.0

    def prepare(self, feeds: object):
        def call() -> None:
            self.now += 1.0
            self.used += 250.0

        return call


def zone(folder: pathlib.Path, name: str, says: str, energy_uj: str = "1500") -> pathlib.Path:
    path = folder / name
    path.mkdir()
    (path / "name").write_text(says + "\n")
    (path / "energy_uj").write_text(energy_uj)
    (path / "max_energy_range_uj").write_text("262143328850")
    return path


def test_only_packages_are_counted(tmp_path: pathlib.Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0")
    zone(tmp_path, "intel-rapl:0:0", "core")
    zone(tmp_path, "intel-rapl:1", "package-1", "2500")
    zone(tmp_path, "intel-rapl:2", "psys")
    zone(tmp_path, "intel-rapl-mmio:0", "package-0")
    counters = rapl_counters(tmp_path)
    assert [(each.source, each.read(), each.wraps_at) for each in counters] == [
        ("RAPL package-0", 1.5, 262143328.85),
        ("RAPL package-1", 2.5, 262143328.85),
    ]


def test_without_counters_there_is_a_reason(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rapl_counters(tmp_path / "missing") == "no RAPL counters here"
    assert rapl_counters(tmp_path) == "no RAPL counters here"
    broken = zone(tmp_path, "intel-rapl:0", "package-0", "not a number")
    assert "cannot be read" in rapl_counters(tmp_path)

    def forbidden(self: pathlib.Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "read_text", forbidden)
    assert rapl_counters(tmp_path) == f"the RAPL counters may not be read: {broken / 'energy_uj'} is for root alone"


def test_energy_is_what_the_counters_moved_by_divided_by_the_runs() -> None:
    worker = Worker()
    counters = (Counter("a", lambda: worker.used), Counter("b", lambda: 2 * worker.used))
    measured = measure_energy(worker, {}, seconds=10.0, counters=counters, clock=lambda: worker.now)
    assert measured.value == pytest.approx(750.0)
    assert measured.reason is None


def test_a_counter_that_wraps_goes_on() -> None:
    worker = Worker()
    counters = (Counter("a", lambda: worker.used % 2000, 2000.0),)
    measured = measure_energy(worker, {}, seconds=5.0, counters=counters, clock=lambda: worker.now)
    assert measured.value == pytest.approx(250.0)


def test_counters_that_stand_still_or_fail_are_a_reason() -> None:
    worker = Worker()

    def fails() -> float:
        raise OSError("gone")

    still = measure_energy(worker, {}, counters=(Counter("a", lambda: 1.0),), clock=lambda: worker.now)
    failed = measure_energy(worker, {}, counters=(Counter("a", fails),), clock=lambda: worker.now)
    assert (still.value, still.reason) == (None, "the energy counters stood still")
    assert (failed.value, failed.reason) == (None, "the energy counters failed: gone")


def test_the_target_says_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "rapl_counters", lambda: (Counter("one", float), Counter("two", float)))
    monkeypatch.setattr(energy, "nvml_counters", lambda: "no NVML here")
    assert energy_source(CPU) == ("one, two", None)
    assert energy_source(CUDA) == (None, "no NVML here")
    monkeypatch.setattr(energy, "rapl_counters", lambda: "no RAPL counters here")
    assert measure_energy(Worker(), {}).reason == "no RAPL counters here"


class Nvml:
    """The part of NVML's library that is used."""

    def __init__(self, start: int = 0, count: int = 0) -> None:
        self.start, self.count, self.total = start, count, 41

    def nvmlInit_v2(self) -> int:  # noqa: N802  NVML's name
        return self.start

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: object) -> int:  # noqa: N802  NVML's name
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: object, total: object) -> int:  # noqa: N802  NVML's name
        self.total += 1
        total._obj.value = self.total  # type: ignore[attr-defined]  # what byref points to
        return self.count


def test_nvml_counts_millijoules() -> None:
    (counter,) = nvml_counters(lambda name: Nvml())
    assert counter.read() == 43.0


def test_without_nvml_there_is_a_reason() -> None:
    def missing(name: str) -> None:
        raise OSError

    assert "cannot be opened" in nvml_counters(missing)
    assert nvml_counters(lambda name: Nvml(start=1)) == "NVML finds no device"
    assert nvml_counters(lambda name: Nvml(count=3)) == "this GPU does not count its energy"
