"""Times of layers: measured in turns, once for a machine, and kept on disk."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest

from onnxslim.runtime.cache import Cache, cache_folder
from onnxslim.runtime.layer import Step, Tensor, TimedLayer
from onnxslim.runtime.layer_latency import LayerTimes, TimeLayers
from onnxslim.runtime.target import Target
from onnxslim.runtime.timing import time_layers

TARGET = Target("cpu", "some processor", "avx2", 1)


def product(rows: int, inner: int, columns: int) -> TimedLayer:
    return TimedLayer((Step(("", "MatMul"), (Tensor((rows, inner)), Tensor((inner, columns), constant=True))),))


def one_each(layers: Sequence[object], target: Target) -> list[float | None]:
    return [1.0 for _ in layers]


class Counted:
    """Times layers, and counts those that it was given and that run."""

    def __init__(self, time: TimeLayers = time_layers) -> None:
        self.time, self.count = time, 0

    def __call__(self, layers: Sequence[Any], target: Target) -> list[float | None]:
        times = self.time(layers, target)
        self.count += sum(time is not None for time in times)
        return times


BROKEN = TimedLayer((Step(("", "MatMul"), (Tensor((2, 3)), Tensor((4, 5), constant=True))),))


def test_more_work_takes_longer_and_what_does_not_run_has_no_time(tmp_path: pathlib.Path) -> None:
    counted = Counted()
    times = LayerTimes(TARGET, counted, folder=tmp_path)
    small, large, none, again = times.milliseconds(
        [product(16, 64, 64), product(256, 512, 512), BROKEN, product(16, 64, 64)]
    )
    assert small == again
    assert none is None
    assert 0 < small < large
    assert counted.count == 2


def test_what_is_known_is_not_measured_again(tmp_path: pathlib.Path) -> None:
    layers = [product(4, 8, 8), product(8, 8, 8)]
    counted = Counted()
    first = LayerTimes(TARGET, counted, folder=tmp_path)
    known = first.milliseconds(layers)
    assert first.milliseconds(layers) == known
    assert counted.count == 2

    def fail(layers: object, target: Target) -> list[float | None]:
        raise AssertionError("nothing needs measuring")

    assert LayerTimes(TARGET, fail, folder=tmp_path).milliseconds(layers) == known
    assert [each.suffix for each in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize(
    "change", [{"threads": 2}, {"provider": "cuda"}, {"device": "another"}, {"instruction_set": "avx512"}]
)
def test_another_machine_is_another_file(tmp_path: pathlib.Path, change: dict[str, object]) -> None:
    LayerTimes(TARGET, one_each, folder=tmp_path).milliseconds([product(2, 2, 2)])
    counted = Counted(one_each)
    other = LayerTimes(dataclasses.replace(TARGET, **change), counted, folder=tmp_path)
    other.milliseconds([product(2, 2, 2)])
    assert counted.count == 1
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"circumstances": {}}', "\x00\xff"])
def test_a_file_that_makes_no_sense_is_written_anew(tmp_path: pathlib.Path, text: str) -> None:
    path = Cache("layers", {"threads": 1}, tmp_path).path
    path.write_text(text, encoding="latin-1")
    cache = Cache("layers", {"threads": 1}, tmp_path)
    assert cache.get("a") is None
    cache.update({"a": 1.5})
    assert Cache("layers", {"threads": 1}, tmp_path).get("a") == 1.5


def test_a_pipe_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    path = Cache("layers", {"threads": 1}, tmp_path).path
    os.mkfifo(path)
    cache = Cache("layers", {"threads": 1}, tmp_path)
    assert cache.get("a") is None
    cache.update({"a": 1.5})
    assert Cache("layers", {"threads": 1}, tmp_path).get("a") == 1.5


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(cls: type[pathlib.Path]) -> pathlib.Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("ONNXSLIM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pathlib.Path, "home", classmethod(homeless))
    cache = Cache("layers", {"threads": 1})
    cache.update({"a": 1.5})
    assert cache.get("a") == 1.5
    assert Cache("layers", {"threads": 1}).get("a") is None


def test_numbers_that_are_no_times_are_passed_over(tmp_path: pathlib.Path) -> None:
    cache = Cache("layers", {"threads": 1}, tmp_path)
    cache.update({"good": 2.0, "bad": 3.0})
    held = json.loads(cache.path.read_text())
    held["numbers"] |= {"bad": -1, "text": "x", "none": None, "nan": float("nan")}
    cache.path.write_text(json.dumps(held))
    again = Cache("layers", {"threads": 1}, tmp_path)
    assert [again.get(name) for name in ("good", "bad", "text", "none", "nan")] == [2.0, None, None, None, None]


def test_what_another_process_wrote_stays(tmp_path: pathlib.Path) -> None:
    one, other = (Cache("layers", {"threads": 1}, tmp_path) for _ in range(2))
    one.update({"a": 1.0})
    other.update({"b": 2.0})
    both = Cache("layers", {"threads": 1}, tmp_path)
    assert (both.get("a"), both.get("b")) == (1.0, 2.0)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache("layers", {"threads": 1}, tmp_path / "file" / "inside")
    cache.update({"a": 1.0})
    assert cache.get("a") == 1.0


def test_the_environment_says_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("ONNXSLIM_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.setenv("ONNXSLIM_CACHE", "")
    assert cache_folder() == tmp_path / "shared" / "onnxslim"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == pathlib.Path.home() / ".cache" / "onnxslim"
