"""How a candidate is compared with the original: on which samples, with how many sessions, how they are opened."""

from __future__ import annotations

import dataclasses
import weakref
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

import onnxslim
from onnxslim.data import synthetic_samples
from onnxslim.pipeline.interface import Change, Context, Goal, Kind, Pass
from onnxslim.pipeline.judge import Judge
from onnxslim.pipeline.measured import MeasuredModel, Run
from onnxslim.pipeline.recipe import Recipe
from onnxslim.pipeline.request import Request
from onnxslim.runtime.latency import Latency, PairedLatency, Percentiles
from onnxslim.runtime.session import Session
from onnxslim.runtime.statistics import Interval


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_samples_that_another_model_was_tried_on_tell_nothing_of_this_one(factor: float) -> None:
    def scaling(by: float) -> ir.Model:
        return from_text(
            f"""<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float[2,4] y) {{
            c = Constant <value_float = {by}> ()  y = Mul (x, c) }}"""
        )

    samples = synthetic_samples(scaling(factor), 8)
    original = Session.of(scaling(2.0))
    candidates = [MeasuredModel(scaling(by), lambda by=by: Session.of(scaling(by))) for by in (2.0, 7.0)]
    request = Request(scaling(2.0), Recipe(()), original.target, measure=False)
    run = Run(request, MeasuredModel(scaling(2.0), lambda: original), samples, samples)
    judge = Judge(run, np.random.default_rng(0))
    assert judge.difference(run.original, candidates[0]) is None
    assert "relative difference" in str(judge.difference(run.original, candidates[1]))


def test_a_session_that_was_tried_is_not_run_again() -> None:
    model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float[2,4] y) { y = Neg (x) }""")
    session = Session.of(model)
    samples = synthetic_samples(model, 8, session=session)
    original = MeasuredModel(model, lambda: session)
    request = Request(model, Recipe(()), session.target, measure=False)
    judge = Judge(Run(request, original, samples, samples), np.random.default_rng(0))
    assert len(judge.probes) == 1
    assert samples.trial_run is not None
    assert original.probe_outputs[0]["y"] is samples.trial_run.outputs["y"]


def test_two_large_models_are_never_open_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxslim.commands.optimize.IN_MEMORY_LIMIT", 0)
    opened: list[weakref.ref[Session]] = []
    alive: list[int] = []
    of = Session.of

    def watched(*arguments: object, **options: object) -> Session:
        alive.append(sum(each() is not None for each in opened))
        session = of(*arguments, **options)  # type: ignore[arg-type]
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(Session, "of", watched)
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,8] x, float[8,8] w) => (float[N,8] y) {
        a = MatMul (x, w)  b = Relu (a)  y = Relu (b) }""",
        w=np.ones((8, 8), np.float32),
    )
    result = onnxslim.optimize(model, "simplify", measure=False)
    assert result.report.passes[0].kept
    assert alive == [0, 0]


@pytest.mark.parametrize(("most", "optimize"), [(3, True), (2, False)])
def test_models_of_very_many_nodes_are_compared_as_they_are_written(
    monkeypatch: pytest.MonkeyPatch, most: int, optimize: bool
) -> None:
    monkeypatch.setattr("onnxslim.commands.optimize.MOST_REWRITTEN", most)
    seen: list[object] = []
    of = Session.of

    def watched(*arguments: object, **options: object) -> Session:
        seen.append(options["optimize"])
        return of(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "of", watched)
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float[2,4] y) {
        a = Relu (x)  b = Relu (a)  y = Neg (b) }"""
    )
    assert onnxslim.optimize(model, "simplify", measure=False).report.passes[0].kept
    assert seen == [optimize, optimize]


@pytest.mark.parametrize(
    ("step", "taken"),
    [("quant", "int8"), ("prune:ratio=0.3", "removed"), ("lowrank:params=0.3", "of the parameters")],
)
def test_a_model_that_declares_any_batch_and_takes_one_sample_is_observed_one_by_one(step: str, taken: str) -> None:
    """A Reshape was written for one sample, by an exporter that traced one."""
    generator = np.random.default_rng(0)
    weights = {
        name: (generator.normal(size=shape) / 8).astype(np.float32)
        for name, shape in (("u", (64, 64)), ("v", (64, 64)), ("w", (64, 8)))
    }
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,16] x) => (float[M,8] y) {
        s = Constant <value_ints = [1, 64]> ()  f = Reshape (x, s)  a = MatMul (f, u)  b = Relu (a)
        c = MatMul (b, v)  d = Relu (c)  y = MatMul (d, w) }""",
        **weights,
    )
    data = {"x": generator.normal(size=(64, 4, 16)).astype(np.float32)}
    report = onnxslim.optimize(model, step, data=data, goal="size", measure=False).report
    done = report.passes[-1]
    assert done.kept, done.reason
    assert any(taken in change.action for change in done.changes)


@pytest.mark.parametrize(("pursued", "kept"), [(None, False), (Goal.SIZE, True)])
def test_a_pass_whose_options_ask_for_size_may_be_slower(
    pursued: Goal | None, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Slowing(Pass):
        """Makes a model slower."""

        name: ClassVar[str] = "slowing"
        kind: ClassVar[Kind] = Kind.LOSSY

        @property
        def pursues(self) -> Goal | None:
            return pursued

        def run(self, model: ir.Model, context: Context) -> Change:
            return Change(True)

    model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[2,4] x) => (float[2,4] y) { y = Neg (x) }""")
    session = Session.of(model)
    samples = synthetic_samples(model, 8, session=session)
    measured = MeasuredModel(model, lambda: session)
    judge = Judge(Run(Request(model, Recipe(()), session.target), measured, samples, samples), np.random.default_rng(0))
    once = Latency(Percentiles(1.0, 1.0, 1.0), 1.0)
    slow = PairedLatency(once, once, Interval(0.5, 0.4, 0.6))
    monkeypatch.setattr(judge, "latency", lambda *models: slow)
    verdict = judge.pays(Slowing(), measured, measured)
    assert verdict.kept is kept
    assert "0.50x the speed of before" in str(verdict.reasons[-1])
