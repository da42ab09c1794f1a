"""Channels go in steps, with distillation between: as much in all, and less is lost."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import built, weight
from distilled_models import error, images, network
from onnxslim.passes.distill import Distill
from onnxslim.passes.prune import Prune
from onnxslim.passes.prune.iterated import CutSchedule, distillation_between
from onnxslim.passes.qat import Qat
from story import make_context

import onnxslim
from onnxslim.analysis.cost import measure_cost
from onnxslim.errors import BadOptionValue
from onnxslim.model import weight_bytes
from onnxslim.pipeline.interface import Change, Pass
from onnxslim.train.optimizer import OptimizerKind

FAST = Prune(ratio=0.6, align=1, steps=3, epochs=4)
TRAINING = Distill(batch=16, rate=5e-3)


def cut(step: Prune, *behind: Pass, data: dict[str, np.ndarray] | None = None) -> tuple[ir.Model, Change]:
    model = network()
    context = make_context(network(), images(128) if data is None else data, behind=behind)
    return model, step.run(model, context)


def weight_count(model: ir.Model) -> float:
    return float(weight_bytes(model))


def macs(model: ir.Model) -> float:
    return measure_cost(model).macs


@pytest.mark.parametrize(
    ("schedule", "left"), [(CutSchedule.GEOMETRIC, [0.9, 0.81, 0.729]), (CutSchedule.LINEAR, [0.91, 0.82, 0.729])]
)
def test_a_schedule_ends_with_what_was_asked_for(schedule: CutSchedule, left: list[float]) -> None:
    assert schedule.left(0.271, 3) == pytest.approx(left, abs=1e-3)
    assert schedule.left(0.271, 1) == pytest.approx([0.729])


def chain() -> ir.Model:
    """Return a chain of convolutions that is wide enough for cuts of a few channels."""
    text = """g (float[N,3,8,8] x) => (float[N,10] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1) b = Relu (a) c = Conv <pads=[1,1,1,1]> (b, w2) d = Relu (c)
        e = GlobalAveragePool (d) f = Flatten (e) y = MatMul (f, v) }"""
    model: ir.Model = built(text, w1=weight(24, 3, 3, 3), w2=weight(32, 24, 3, 3) / np.float32(5), v=weight(32, 10))
    return model


@pytest.mark.parametrize("schedule", CutSchedule)
@pytest.mark.parametrize("share", ["ratio", "params"])
def test_as_much_goes_in_steps_as_was_asked_for(share: str, schedule: CutSchedule) -> None:
    asked = Prune(align=1, steps=3, epochs=1, schedule=schedule, sensitivity=False, **{share: 0.6})  # type: ignore[arg-type]
    model = chain()
    change = asked.run(model, make_context(chain(), images(64), behind=(TRAINING,)))
    cost = {"ratio": macs, "params": weight_count}[share]
    assert abs(1 - cost(model) / cost(chain()) - 0.6) < 0.05
    assert change.notes[0].action.endswith("of the MACs removed in 3 steps")
    steps = [note.action.split("(")[-1] for note in change.notes if " removed" in note.action and "(" in note.action]
    assert steps == [f"step {number} of 3)" for number in (1, 2, 3)]
    assert {layer.before for layer in change.layers if layer.op == "Conv"} == {24, 32}


def test_limits_are_those_of_the_model_that_came_in() -> None:
    model = chain()
    Prune(ratio=0.9, align=4, most=0.5, steps=4, epochs=1, sensitivity=False).run(
        model, make_context(chain(), images(64))
    )
    assert [model.graph.initializers[name].shape[0] for name in ("w1", "w2")] == [12, 16]  # type: ignore[index]


def test_what_a_step_has_cost_is_won_back_before_the_next() -> None:
    alone = dataclasses.replace(FAST, compensate=False, refit=False)
    in_steps, at_once = (cut(dataclasses.replace(alone, steps=steps), TRAINING)[0] for steps in (3, 1))
    assert macs(in_steps) <= macs(at_once)
    assert error(in_steps, network()) < error(at_once, network())


def test_the_training_between_is_that_of_the_distillation_behind() -> None:
    asked = dataclasses.replace(TRAINING, optimizer=OptimizerKind.SGD, epochs=9, checkpoint="c")
    between = distillation_between((Qat(), Distill(student="other.onnx"), asked, Distill()), 4, 2)
    assert between == dataclasses.replace(asked, epochs=4, checkpoint="c.step2")
    assert distillation_between((Qat(),), 3, 1) == Distill(epochs=3)


def test_training_runs_between_steps_only_and_is_told() -> None:
    _, change = cut(FAST, TRAINING)
    told = [note.action for note in change.notes if note.action.startswith("loss on")]
    assert len(told) == 2
    assert told[0].endswith("(behind step 1)")
    assert told[1].endswith("(behind step 2)")
    assert len({note.subject for note in change.notes if note.action == "left alone"}) == len(
        [note for note in change.notes if note.action == "left alone"]
    ), "what is left alone is told once"


def test_one_step_is_what_it_always_was() -> None:
    one, other = cut(dataclasses.replace(FAST, steps=1), TRAINING)[0], cut(Prune(ratio=0.6, align=1))[0]
    assert ir.to_proto(one).SerializeToString() == ir.to_proto(other).SerializeToString()


def test_a_killed_run_finds_what_each_step_had_done(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "c"
    asked = dataclasses.replace(TRAINING, checkpoint=str(file))
    whole, _ = cut(FAST, asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.step1", "c.step2"]
    (tmp_path / "c.step2").unlink()  # killed in the second
    seen = (tmp_path / "c.step1").stat().st_mtime_ns
    again, _ = cut(FAST, asked)
    assert (tmp_path / "c.step1").stat().st_mtime_ns == seen
    assert ir.to_proto(whole).SerializeToString() == ir.to_proto(again).SerializeToString()


def test_a_run_passes_the_distillation_on_to_the_steps_at_each_strength(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    onnxslim.save_model(network(softmax=True), path)
    result = onnxslim.optimize(
        path, passes="prune:ratio=0.6:align=1:steps=2:epochs=2,distill:epochs=4:batch=16:rate=0.005",
        data=images(128), val=images(200, 8), max_drop=0.3, measure=False,
    )  # fmt: skip
    records = {record.name: record for record in result.report.passes}
    assert records["prune"].kept
    (told,) = (note for note in records["prune"].changes if note.action.endswith("(behind step 1)"))
    assert "steps of 16 samples, 2 epochs" in told.reason


@pytest.mark.parametrize("options", [{"steps": 0}, {"epochs": 0}, {"steps": 2, "exact": True}])
def test_steps_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadOptionValue, match=r"steps|epochs"):
        Prune(**options)
