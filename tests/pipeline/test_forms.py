"""Several lossy passes share one budget, each in the strongest form that holds."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from zoo import MODELS

import onnxslim
from onnxslim.pipeline.budget import upper_bound
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass
from onnxslim.pipeline.strength import MOST_TRIES

COUNT = 2000

MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,1] x) => (float[N,2] y) <float[1] cut = {0}> {
    d = Sub (x, cut)  z = Sub (d, d)  y = Concat <axis = 1> (z, d) }"""
"""Chooses the second class for inputs above `cut`: how many of the inputs, which lie evenly between 0 and 1, get
another class is known exactly."""


def samples(labelled: bool) -> dict[str, np.ndarray]:
    x = ((np.arange(COUNT) + 0.5) / COUNT).astype(np.float32).reshape(-1, 1)
    return {"x": x, "labels": np.ones(COUNT, np.int64)} if labelled else {"x": x}


@dataclasses.dataclass(frozen=True)
class Shift(Pass):
    """Shift the cut, so that `amount` of all samples get the wrong class."""

    name: ClassVar[str] = "shift"
    kind: ClassVar[Kind] = Kind.LOSSY
    amount: Annotated[float, "the share of the samples"] = 0.01
    steep: Annotated[float, "how steeply the loss rises with the strength"] = 2.0
    least: Annotated[float, "strengths below this do nothing"] = 0.0
    strength: Annotated[float, "how much of it is done"] = 1.0

    def milder(self, strength: float) -> Pass:
        return dataclasses.replace(self, strength=strength)

    def run(self, model: ir.Model, context: Context) -> Change:
        if self.strength < self.least:
            return Change(False, (Note("model", "left alone", "too weak"),))
        context.observed("draw", lambda: context.generator.random())
        value = model.graph.initializers["cut"]
        assert value.const_value is not None
        moved = value.const_value.numpy() + np.float32(self.amount * self.strength**self.steep)
        value.const_value = ir.tensor(moved.astype(np.float32), name="cut")
        return Change(True, (Note("cut", f"{context.generator.random()}"),))


@dataclasses.dataclass(frozen=True)
class Rigid(Shift):
    """The same, in one form only."""

    name: ClassVar[str] = "rigid"

    def milder(self, strength: float) -> None:
        return None


def run(*passes: Pass, max_drop: float | None = 0.01, **arguments: object) -> onnxslim.Result:
    arguments = {"data": samples(True), "val": samples(True), "measure": False, **arguments}
    return onnxslim.optimize(from_text(MODEL), passes, max_drop=max_drop, **arguments)  # type: ignore[arg-type]


def test_what_misses_the_budget_is_kept_in_a_milder_form() -> None:
    report = run(Shift(amount=0.05)).report
    (record,) = report.passes
    assert record.kept
    assert record.asked["strength"] == 1.0
    assert 0.25 < record.options["strength"] < 0.45, "0.45 squared of 5 % is 1 %"
    assert report.quality.loss is not None
    assert 0.005 <= report.quality.loss.value <= 0.01
    assert [attempt.kept for attempt in record.attempts].count(True) == 1
    assert record.attempts[0].strength == 1.0, "what was asked for is tried first"
    assert record.attempts[0].loss is not None
    assert record.attempts[0].loss.value == pytest.approx(0.05, abs=0.001)
    assert "% of top-1 accuracy would be lost where 1.00% may be" in record.reason, "what the next step would have cost"


def test_what_has_one_form_is_kept_or_rolled_back() -> None:
    held, missed = run(Rigid(amount=0.005)).report, run(Rigid(amount=0.02)).report
    assert held.passes[0].kept
    assert not missed.passes[0].kept
    assert [len(report.passes[0].attempts) for report in (held, missed)] == [1, 1]
    assert missed.passes[0].attempts[0].loss is not None


def test_without_a_budget_every_pass_is_kept_as_it_was_asked_for() -> None:
    (record,) = run(Shift(amount=0.2), max_drop=None).report.passes
    assert record.kept
    assert record.options == record.asked
    assert record.attempts[0].loss is not None
    assert record.attempts[0].loss.value == pytest.approx(0.2, abs=0.001)


@pytest.mark.parametrize("amounts", [(0.05, 0.05, 0.05), (0.0, 0.05, 0.0), (0.5, 0.0, 0.004)])
def test_passes_share_the_budget_and_what_one_leaves_the_next_may_use(amounts: tuple[float, ...]) -> None:
    report = run(*(Shift(amount=amount) for amount in amounts)).report
    assert all(record.kept for record in report.passes), "none takes it all from those behind it"
    losses = [next(each.loss for each in record.attempts if each.kept) for record in report.passes]
    values = [0.0] + [loss.value for loss in losses if loss is not None]
    for number, amount in enumerate(amounts):
        part = values[number + 1] - values[number]
        left = 0.01 - values[number]
        assert part <= left / (1 if number == len(amounts) - 1 else 2) + 1e-9
        assert part >= min(amount, 0.2 * left) - 1e-3, "a good part of what there is is used"
    assert report.quality.loss is not None
    assert report.quality.loss.value <= 0.01


def test_a_form_that_does_nothing_is_not_kept() -> None:
    (record,) = run(Shift(amount=0.9, least=0.5)).report.passes
    assert not record.kept
    assert "too weak" in record.reason
    assert "would be lost" in record.reason, "and why not the next step"


def test_where_no_form_holds_the_mildest_is_named() -> None:
    (record,) = run(Shift(amount=0.9, steep=0.01)).report.passes
    assert not record.kept
    assert "in the mildest form" in record.reason
    assert len(record.attempts) <= MOST_TRIES
    assert not any(attempt.kept for attempt in record.attempts)


def test_a_run_can_be_repeated_and_what_was_kept_gives_the_same_model() -> None:
    first, second = run(Shift(amount=0.05), Shift(amount=0.03)), run(Shift(amount=0.05), Shift(amount=0.03))
    assert first.model.metadata_props == second.model.metadata_props
    drawn = [record.changes[0].action for record in first.report.passes]
    assert drawn == [record.changes[0].action for record in second.report.passes]
    again = run(Shift(**first.report.passes[0].options), max_drop=None)
    assert again.report.passes[0].changes[0].action == drawn[0], "what is drawn does not depend on how often it ran"


def test_without_labels_the_estimate_is_the_budget() -> None:
    report = run(Shift(amount=0.05), data=samples(False), val=samples(False)).report
    assert report.passes[0].kept
    assert report.quality.loss is not None
    assert 0 <= report.quality.loss.value <= 0.01


def test_with_confidence_a_milder_form_is_kept_and_the_bound_is_within_the_budget() -> None:
    plain, sure = run(Shift(amount=0.05)).report, run(Shift(amount=0.05), confidence=0.95).report
    assert sure.passes[0].kept
    assert sure.passes[0].options["strength"] < plain.passes[0].options["strength"]
    loss = sure.quality.loss
    assert loss is not None
    assert upper_bound(loss, 0.95) <= 0.01
    assert (sure.budget.confidence, plain.budget.confidence) == (0.95, None)


def test_where_the_interval_reaches_past_the_budget_it_is_said_and_how_many_samples_settle_it() -> None:
    report = run(Shift(amount=0.009)).report
    assert report.quality.loss is not None
    assert report.quality.loss.high > 0.01
    assert report.budget.samples_needed is not None
    assert report.budget.samples_needed > COUNT
    assert "reaches past it, and about" in report.passes[0].reason


@pytest.mark.parametrize(
    "name",
    [
        "prune:ratio=0.7:sensitivity=false:refit=false",
        "lowrank:rank=0.1:pays=size:whiten=false",
        "sparsify:ratio=0.95:method=magnitude",
    ],
)
def test_passes_get_milder_on_a_real_model(name: str) -> None:
    """What would lose much more than may be lost is kept in a form that holds."""
    with np.load(MODELS / "fashion_calib.npz") as calib, np.load(MODELS / "fashion_test.npz") as test:
        data, val = (
            {key: array[:count] if array.ndim else array for key, array in file.items()}
            for file, count in ((calib, 32), (test, 200))
        )
    result = onnxslim.optimize(
        MODELS / "fashion_resnet8.onnx", name, data=data, val=val, max_drop=0.01, measure=False, goal="size"
    )
    record = result.report.passes[-1]
    assert record.kept, record.reason
    assert record.attempts[0].strength == 1.0
    assert not record.attempts[0].kept
    assert result.report.quality.loss is not None
    assert result.report.quality.loss.value <= 0.01
