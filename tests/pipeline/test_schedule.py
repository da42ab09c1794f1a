"""The declared order decides, whatever order was typed."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import onnx_ir as ir
import pytest

from onnxslim.errors import ScheduleError
from onnxslim.pipeline import schedule as module
from onnxslim.pipeline.interface import Change, Context, Kind, Pass
from onnxslim.pipeline.options import parse_passes
from onnxslim.pipeline.schedule import schedule


@dataclasses.dataclass(frozen=True)
class Step(Pass):
    """Does nothing."""

    kind: ClassVar[Kind] = Kind.EXACT

    def run(self, model: ir.Model, context: Context) -> Change:
        return Change(False)


@dataclasses.dataclass(frozen=True)
class First(Step):
    """Comes first."""

    name: ClassVar[str] = "first"


@dataclasses.dataclass(frozen=True)
class Second(Step):
    """Needs the first."""

    name: ClassVar[str] = "second"
    needs: ClassVar[tuple[str, ...]] = ("first",)


@dataclasses.dataclass(frozen=True)
class Third(Step):
    """Comes after the second where both are asked for."""

    name: ClassVar[str] = "third"
    after: ClassVar[tuple[str, ...]] = ("second", "ring")


@dataclasses.dataclass(frozen=True)
class Ring(Step):
    """Wants to come after what wants to come after it."""

    name: ClassVar[str] = "ring"
    after: ClassVar[tuple[str, ...]] = ("third",)


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_pass", {"first": First, "second": Second}.__getitem__)


def names(*steps: Pass, as_written: bool = False) -> list[str]:
    return [step.name for step in schedule(steps, as_written=as_written)]


@pytest.mark.parametrize("steps", [*itertools.permutations((First(), Second(), Third()))])
def test_the_typed_order_does_not_matter(steps: tuple[Pass, ...]) -> None:
    assert names(*steps) == ["first", "second", "third"]


def test_what_is_needed_is_added() -> None:
    assert names(Second()) == ["first", "second"]


def test_what_is_only_to_come_before_is_not_added() -> None:
    assert names(Third()) == ["third"]


def test_as_written_keeps_the_order_and_adds_needs_in_front() -> None:
    assert names(Third(), Second(), as_written=True) == ["third", "first", "second"]


def test_a_circle_is_an_error_of_usage() -> None:
    with pytest.raises(ScheduleError, match="each want to run after the other") as caught:
        schedule((Third(), Ring()))
    assert caught.value.exit_code == 2
    assert names(Third(), Ring(), as_written=True) == ["third", "ring"]


def test_the_real_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert names(*parse_passes("quant,prune")) == ["simplify", "prune", "quant"]
    assert names(*parse_passes("prune,quant,simplify")) == ["simplify", "prune", "quant"]
