"""Each pass is kept or rolled back for the reason that is true."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Annotated, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from read_report import from_json
from zoo import MODELS

import onnxslim
from onnxslim.commands import resources
from onnxslim.errors import (
    BadOptionValue,
    BudgetMissed,
    DataError,
    ModelUnreadable,
    OutputError,
    PassFailed,
    RecipeError,
    UsageError,
)
from onnxslim.pipeline import judge as judging
from onnxslim.pipeline.interface import Change, Context, Kind, Note, Pass, Progress
from onnxslim.pipeline.judge import Judge
from onnxslim.pipeline.request import set_aside
from onnxslim.report.json import to_json
from onnxslim.runtime.latency import Latency, PairedLatency, Percentiles
from onnxslim.runtime.statistics import Interval, Measured

RESNET8 = MODELS / "fashion_resnet8.onnx"


def first(name: str, count: int) -> dict[str, np.ndarray]:
    """Return the first `count` samples of a file of data, as a mapping."""
    with np.load(MODELS / name) as file:
        return {key: array[:count] if array.ndim else array for key, array in file.items()}


CALIB, TEST = first("fashion_calib.npz", 80), first("fashion_test.npz", 200)


@dataclasses.dataclass(frozen=True)
class Scale(Pass):
    """Multiply the weights of the classifier; claims to be exact."""

    name: ClassVar[str] = "scale"
    kind: ClassVar[Kind] = Kind.EXACT
    by: Annotated[float, "the factor"] = 1.0

    def run(self, model: ir.Model, context: Context) -> Change:
        value = model.graph.initializers["f.weight"]
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy() * np.float32(self.by), name="f.weight")
        return Change(True, (Note("f.weight", f"times {self.by}"),))


@dataclasses.dataclass(frozen=True)
class LossyScale(Scale):
    """The same, and honest."""

    name: ClassVar[str] = "lossy_scale"
    kind: ClassVar[Kind] = Kind.LOSSY


@dataclasses.dataclass(frozen=True)
class Idle(Pass):
    """Finds nothing to do."""

    name: ClassVar[str] = "idle"
    kind: ClassVar[Kind] = Kind.LOSSY

    def run(self, model: ir.Model, context: Context) -> Change:
        return Change(False, (Note("model", "left alone", "it is good already"),))


@dataclasses.dataclass(frozen=True)
class Raises(Pass):
    """Has a bug."""

    name: ClassVar[str] = "raises"
    kind: ClassVar[Kind] = Kind.EXACT

    def run(self, model: ir.Model, context: Context) -> Change:
        raise ZeroDivisionError("by zero")


@dataclasses.dataclass(frozen=True)
class Silent(Pass):
    """Returns nothing."""

    name: ClassVar[str] = "silent"
    kind: ClassVar[Kind] = Kind.EXACT

    def run(self, model: ir.Model, context: Context) -> Change:
        return None  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class Breaks(Pass):
    """Leaves a graph that ONNX Runtime does not load."""

    name: ClassVar[str] = "breaks"
    kind: ClassVar[Kind] = Kind.LOSSY

    def run(self, model: ir.Model, context: Context) -> Change:
        model.graph[0].op_type = "NoSuchOperator"
        return Change(True)


def latency_of(ratio: Interval) -> Callable[..., PairedLatency]:
    one = Latency(Percentiles(1.0, 1.0, 1.0), 1000.0)
    return lambda *_, **__: PairedLatency(one, one, ratio)


def optimize(*passes: Pass, **arguments: object) -> onnxslim.Result:
    arguments = {"data": CALIB, "val": TEST, "measure": False, **arguments}
    return onnxslim.optimize(RESNET8, passes, **arguments)  # type: ignore[arg-type]  # the keywords vary from test to test


def test_an_exact_pass_that_keeps_the_outputs_is_kept() -> None:
    (record,) = optimize(Scale()).report.passes
    assert record.kept
    assert record.reason == "outputs unchanged"
    assert [reason.code for reason in record.reasons] == ["outputs-unchanged"]


def test_an_exact_pass_that_changes_the_outputs_is_rolled_back() -> None:
    result = optimize(Scale(by=1.01))
    (record,) = result.report.passes
    assert not record.kept
    assert "outputs changed: logits: relative difference" in record.reason
    assert [(reason.code, reason.values) for reason in record.reasons] == [("outputs-changed", ("logits",))]
    original = onnxslim.open_model(RESNET8).graph.initializers["f.weight"].const_value
    kept = result.model.graph.initializers["f.weight"].const_value
    assert original is not None
    assert kept is not None
    np.testing.assert_array_equal(original.numpy(), kept.numpy())
    assert not result.model.metadata_props, "nothing was done, and nothing is claimed"


def test_a_lossy_pass_within_the_budget_is_kept() -> None:
    report = optimize(LossyScale(by=0.5), max_drop=0.01).report
    assert report.passes[0].kept
    assert report.budget.met
    assert report.fidelity.agreement is not None
    assert report.fidelity.agreement.value > 0.97, "a positive factor changes no decision but for the bias"
    assert report.before.accuracy == pytest.approx(0.9, abs=0.05)


def test_a_lossy_pass_over_the_budget_is_rolled_back_and_others_are_not() -> None:
    report = optimize(LossyScale(by=-1.0), Scale(), max_drop=0.01).report
    lossy, exact = report.passes
    assert not lossy.kept
    assert "of top-1 accuracy would be lost where 1.00% may be" in lossy.reason
    assert exact.kept
    assert report.after.accuracy == report.before.accuracy


def test_without_labels_the_loss_is_estimated() -> None:
    (record,) = optimize(LossyScale(by=-1.0), data=CALIB, val=None, max_drop=0.01).report.passes
    assert "of top-1 accuracy, as estimated without labels, would be lost" in record.reason


def test_without_a_budget_a_lossy_pass_is_kept_and_told() -> None:
    report = optimize(LossyScale(by=-1.0)).report
    assert report.passes[0].kept
    assert report.after.accuracy is not None
    assert report.after.accuracy < 0.1


@pytest.mark.parametrize(
    ("ratio", "goal", "kept"),
    [
        (Interval(0.8, 0.7, 0.9), "latency", False),
        (Interval(0.8, 0.7, 0.9), "size", True),
        (Interval(0.97, 0.9, 1.04), "latency", True),
    ],
)
def test_what_is_slower_beyond_noise_is_rolled_back(
    monkeypatch: pytest.MonkeyPatch, ratio: Interval, goal: str, kept: bool
) -> None:
    monkeypatch.setattr(judging, "compare_latency", latency_of(ratio))
    monkeypatch.setattr(resources, "peak_memory", lambda *_: Measured(None, "not here"))
    (record,) = optimize(LossyScale(), measure=True, goal=goal).report.passes
    assert record.kept is kept
    assert "x the speed of before" in record.reason


def test_a_result_that_does_not_run_is_rolled_back() -> None:
    (record,) = optimize(Breaks()).report.passes
    assert not record.kept
    assert record.reason.startswith("the result does not run: ONNX Runtime says")


def test_nothing_to_do_is_said_with_the_reason() -> None:
    (record,) = optimize(Idle()).report.passes
    assert not record.kept
    assert record.reason == "nothing to do: it is good already"


def test_a_pass_that_raises_is_named_with_those_before_it() -> None:
    with pytest.raises(
        PassFailed,
        match=r"the pass raises \(after scale\): raised ZeroDivisionError: by zero \(test_optimize.py, line \d+\)",
    ):
        optimize(Scale(), Raises())


def test_a_pass_that_returns_no_change_is_named() -> None:
    with pytest.raises(PassFailed, match="its run returned NoneType, not a Change"):
        optimize(Silent())


def test_the_report_says_what_was_asked_and_survives_json(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out.onnx"
    result = optimize(LossyScale(by=0.5), max_drop=0.5, seed=3, output=out)
    report = result.report
    assert report.seed == 3
    assert (report.input.path, report.output.path) == (str(RESNET8), str(out))
    assert report.after.size_bytes == out.stat().st_size
    assert report.ratio.macs == 1.0
    assert report.data.labels
    assert report.before.latency_reason == "not measured: asked not to"
    assert from_json(to_json(report)) == report
    metadata = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert metadata["onnxslim.passes"].startswith("lossy_scale")
    assert metadata["onnxslim.input_sha256"] == report.input.sha256


def test_everything_is_measured_where_it_can_be() -> None:
    report = onnxslim.optimize(RESNET8, [Scale()], data=CALIB, val=TEST).report
    for end in (report.before, report.after):
        assert end.latency_ms is not None
        assert end.latency_ms.p50 <= end.latency_ms.p95 <= end.latency_ms.p99
        assert end.peak_memory_bytes or end.peak_memory_reason
        assert end.energy_mj or end.energy_reason
    assert report.ratio.latency is not None


@pytest.mark.timing
def test_the_same_model_twice_is_as_fast_as_itself() -> None:
    latency = onnxslim.optimize(RESNET8, [Scale()], data=CALIB, val=TEST).report.ratio.latency
    assert latency is not None
    assert latency.low <= 1.05
    assert latency.high >= 0.95


@dataclasses.dataclass(frozen=True)
class Noise(Scale):
    """Multiply the weights of the classifier by random numbers near one."""

    name: ClassVar[str] = "noise"
    kind: ClassVar[Kind] = Kind.LOSSY

    def run(self, model: ir.Model, context: Context) -> Change:
        return Scale(by=float(context.generator.normal(1, 0.01))).run(model, context)


def test_the_same_seed_gives_the_same_model_however_long_measuring_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(resources, "peak_memory", lambda *_: Measured(None, "not here"))
    one = Latency(Percentiles(1.0, 1.0, 1.0), 1000.0)
    for name, draws in (("a.onnx", 3), ("b.onnx", 1000)):

        def timed(*_: object, generator: np.random.Generator, draws: int = draws, **__: object) -> PairedLatency:
            generator.random(draws)
            return PairedLatency(one, one, Interval(1.0, 0.9, 1.1))

        monkeypatch.setattr(judging, "compare_latency", timed)
        onnxslim.optimize(RESNET8, [LossyScale(), Noise()], data=CALIB, val=TEST, output=tmp_path / name, seed=5)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@dataclasses.dataclass(frozen=True)
class Drawing(LossyScale):
    """Note what is drawn: samples, and a random number."""

    name: ClassVar[str] = "drawing"
    wish: Annotated[int, "how many samples"] = 20

    def run(self, model: ir.Model, context: Context) -> Change:
        drawn = context.draw(self.wish, "drawing: a test")
        labels = [int(batch.labels[0]) for batch in drawn.batches() if batch.labels is not None]
        note = Note("labels", f"{labels} {context.generator.random()}")
        return dataclasses.replace(super().run(model, context), notes=(note,))


def sorted_by_class(count: int) -> dict[str, np.ndarray]:
    """Return as many labelled samples of each class, class by class."""
    order = np.concatenate([np.flatnonzero(TEST["labels"] == label)[:count] for label in range(10)])
    return {**TEST, "image": TEST["image"][order], "labels": TEST["labels"][order]}


def test_of_data_that_lies_class_by_class_every_part_that_is_used_holds_every_class() -> None:
    report = onnxslim.optimize(RESNET8, [Drawing()], data=sorted_by_class(8), measure=False).report
    labels = [int(each) for each in report.passes[0].changes[0].action.partition("]")[0][1:].split(",")]
    assert set(labels) == set(range(10))
    assert labels != sorted(labels)
    used = {each.purpose: (each.used, each.of) for each in report.data.subsets}
    assert used == {"calibrating": (60, 80), "measuring": (20, 80), "drawing: a test": (20, 60)}


def test_what_a_pass_draws_depends_on_the_seed_and_not_on_the_passes_before_it() -> None:
    def drawn(*passes: Pass, seed: int = 0) -> Note:
        report = onnxslim.optimize(RESNET8, list(passes), data=CALIB, val=TEST, seed=seed, measure=False).report
        return report.passes[-1].changes[0]

    data = CALIB.pop("labels", None)
    assert data is None, "without labels the note holds the random number alone"
    assert drawn(Drawing()) == drawn(Noise(), Drawing(wish=7)) != drawn(Drawing(), seed=1)


def test_a_model_in_memory_is_not_changed() -> None:
    model = onnxslim.open_model(RESNET8)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    result = onnxslim.optimize(model, [LossyScale(by=0.5)], data=CALIB, measure=False)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert result.report.input.path is None
    assert result.report.input.path_reason


def test_a_result_can_be_saved_later(tmp_path: pathlib.Path) -> None:
    result = optimize(LossyScale(by=0.5))
    result.save(tmp_path / "later.onnx")
    assert "onnxslim.passes" in {entry.key for entry in onnx.load(tmp_path / "later.onnx").metadata_props}


def test_without_data_samples_are_synthetic_and_nothing_is_claimed() -> None:
    report = optimize(LossyScale(by=0.5), data=None, val=None).report
    assert report.data.synthetic
    assert report.fidelity.agreement is None
    assert report.fidelity.agreement_reason == "not claimed: the samples are synthetic"
    assert report.passes[0].reason == "fidelity not claimed: the samples are synthetic"


def test_a_quarter_is_set_aside_where_only_one_set_is_given() -> None:
    assert optimize(Scale(), val=None).report.data.samples == 20
    assert optimize(Scale(), data=None).report.data.samples == 150


@pytest.mark.parametrize(
    ("count", "budget", "share"),
    [
        (256, 0.01, 0.5),
        (1000, 0.01, 0.25),
        (640, 0.01, 250 / 640),
        (80, 0.1, 25 / 80),
        (80, None, 0.25),
        (80, 0.0, 0.5),
    ],
)
def test_what_is_set_aside_grows_where_few_samples_must_carry_a_budget(
    count: int, budget: float | None, share: float
) -> None:
    assert set_aside(count, budget) == pytest.approx(share)
    assert set_aside(0, budget) == 0.25


def test_a_lossy_pass_that_did_harm_is_warned_of_even_without_a_budget() -> None:
    (warning,) = optimize(LossyScale(by=-1.0)).report.diagnostics
    assert warning.code == "harmful-pass"
    assert warning.message.startswith("lossy_scale cost 9")
    assert "of top-1 accuracy" in warning.message
    assert "--max-drop" in warning.hint
    assert not optimize(LossyScale(by=0.5)).report.diagnostics
    assert not optimize(LossyScale(by=-1.0), max_drop=0.99).report.diagnostics, "so much was allowed"
    assert not optimize(LossyScale(by=-1.0), data=None, val=None).report.diagnostics, "nothing is claimed"


def test_a_recipe_is_followed_and_arguments_win(tmp_path: pathlib.Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('seed = 4\nmax_drop = 0.25\npasses = "simplify"\n')
    report = onnxslim.optimize(RESNET8, recipe=recipe, data=CALIB, measure=False).report
    assert (report.seed, report.budget.max_drop) == (4, 0.25)
    assert [record.name for record in report.passes] == ["simplify"]
    report = onnxslim.optimize(RESNET8, recipe=recipe, data=CALIB, measure=False, seed=0, max_drop=0.5).report
    assert (report.seed, report.budget.max_drop) == (0, 0.5)


def test_progress_is_told() -> None:
    told: list[str] = []

    class Listener(Progress):
        def __call__(self, what: str, done: int, total: int | None) -> None:
            told.append(what)

    optimize(Scale(), progress=Listener())
    assert told[:2] == ["checking the samples", "scale"]
    assert told[-1].startswith("done")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"goal": "beauty"}, BadOptionValue, "goal cannot be 'beauty'"),
        ({"max_drop": 1.5}, BadOptionValue, "budget cannot be 1.5"),
        ({"max_drop": 0.1, "confidence": 1.0}, BadOptionValue, "confidence cannot be 1.0"),
        ({"confidence": 0.9}, UsageError, "no budget to be sure of"),
        ({"seed": -1}, BadOptionValue, "seed cannot be -1"),
        ({"provider": "tpu"}, BadOptionValue, "tpu"),
        ({"data": None, "val": None, "max_drop": 0.1}, UsageError, "cannot be checked without data"),
        ({"data": "nothing.npz"}, DataError, "nothing.npz"),
        ({"recipe": "nothing.toml"}, RecipeError, "no such recipe"),
        ({"output": RESNET8}, OutputError, "would overwrite the input"),
        ({"output": MODELS}, OutputError, "folder"),
        ({"output": MODELS / "no" / "such.onnx"}, OutputError, "cannot be written"),
    ],
)
def test_bad_requests(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimize(LossyScale(), **arguments)


def test_a_bad_model_is_an_error_before_any_work(tmp_path: pathlib.Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ModelUnreadable):
        onnxslim.optimize(tmp_path / "bad.onnx", [Raises()])


def test_an_exact_pass_that_eats_the_budget_misses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cannot happen as long as exact passes are exact; if they are not, nothing is written."""
    monkeypatch.setattr(Judge, "difference", lambda *_: None)
    with pytest.raises(BudgetMissed, match="is lost in all"):
        optimize(Scale(by=-1.0), max_drop=0.01)


def test_a_model_in_memory_stays_as_it_was() -> None:
    """Constant nodes become initializers, and writing those gives their tensors names."""
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[2] x) => (float[2] y) { c = Constant <value = float[2] {1, 2}> () y = Add (x, c) }
    """)
    before = model.SerializeToString(deterministic=True)
    result = onnxslim.optimize(model, "simplify", measure=False)
    ir.to_proto(result.model)
    assert model.SerializeToString(deterministic=True) == before
