"""The pass: what it splits, what it leaves alone and says so, and what whitening and recovery are good for."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxslim.passes.lowrank import Lowrank, SplitGoal
from onnxslim.passes.lowrank.candidates import SplitCandidate
from onnxslim.passes.lowrank.timing import SplitTimer
from onnxslim.passes.quant import Quant
from sample_models import from_text
from story import make_context

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.linear_layer import LinearLayer
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.data import Samples, open_samples, synthetic_samples
from onnxslim.errors import BadOptionValue
from onnxslim.pipeline.interface import Change, Goal
from onnxslim.pipeline.schedule import schedule
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)
MIXING = GENERATOR.normal(size=(64, 64)) * 0.85 ** np.arange(64)[:, None]
"""What makes the inputs correlated: a few directions carry most of them."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXSLIM_CACHE", str(tmp_path))


def weight(*shape: int) -> np.ndarray:
    return (GENERATOR.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def model(opset: int = 17) -> ir.Model:
    """Return three products with biases, the middle one behind a rectifier."""
    text = f"""<ir_version: {7 if opset < 15 else 10}, opset_import: ["" : {opset}]>
    g (float[N,6,64] x, float u, float v, float w, float b, float c) => (float[N,6,32] y) {{
        p = MatMul (x, u) q = Add (p, b) r = Relu (q) s = MatMul (r, v) t = Add (s, c) o = Relu (t) y = MatMul (o, w)
    }}"""
    made = from_text(text, u=weight(64, 96), v=weight(96, 96), w=weight(96, 32), b=weight(96), c=weight(96))
    infer_shapes(made)
    return made


def data(count: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": (np.random.default_rng(seed).normal(size=(count, 6, 64)) @ MIXING).astype(np.float32)}


def run(
    before: ir.Model, step: Lowrank, samples: Samples | None = None, goal: Goal = Goal.SIZE
) -> tuple[ir.Model, Change]:
    after = before.clone()
    samples = samples or open_samples(data(64, 1), Session.of(before).inputs)
    change = step.run(after, make_context(before, samples, goal=goal))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    return after, change


def lost(before: ir.Model, after: ir.Model) -> float:
    """Return the share of the energy of the outputs that is lost on samples that nothing was fitted to."""
    one, two = (Session.of(each).run(data(64, 2))["y"].astype(np.float64) for each in (before, after))
    return float(np.square(one - two).sum() / np.square(one).sum())


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_parameters_fall_and_the_outputs_follow(opset: int) -> None:
    before = model(opset)
    after, change = run(before, Lowrank(params=0.3, align=8))
    assert change.modified
    assert measure_cost(after).parameters < 0.75 * measure_cost(before).parameters
    assert measure_cost(after).macs < measure_cost(before).macs
    assert lost(before, after) < 0.1
    assert all(each.after < each.before and each.macs_after < each.macs_before for each in change.layers)
    saved = sum(each.macs_before - each.macs_after for each in change.layers)
    assert saved == 6 * (measure_cost(before).parameters - measure_cost(after).parameters)
    x = data(3, 4)
    assert Session.of(after).run(x)["y"].shape == (3, 6, 32)


def test_whitening_beats_plain_svd_on_other_samples() -> None:
    before = model()
    plain, _ = run(before, Lowrank(rank=0.4, align=8, whiten=False))
    whitened, _ = run(before, Lowrank(rank=0.4, align=8, recover=False))
    assert measure_cost(plain).parameters == measure_cost(whitened).parameters
    assert lost(before, whitened) < 0.5 * lost(before, plain)


def test_recovery_makes_up_for_errors_of_layers_before() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,6,64] x, float u, float w, float b)
    => (float[N,6,32] y) {
        p = MatMul (x, u) q = Add (p, b) r = Relu (q) s = Concat <axis = -1> (r, x) y = MatMul (s, w)
    }"""  # the last product sees what the split of the first leaves out of x
    before = from_text(text, u=weight(64, 96), w=weight(160, 32), b=weight(96))
    infer_shapes(before)
    whitened, _ = run(before, Lowrank(params=0.3, align=8))
    recovered, change = run(before, Lowrank(params=0.3, align=8, recover=True))
    assert lost(before, recovered) < 0.8 * lost(before, whitened)
    assert any(note.action.endswith("1 whole weights with them") for note in change.notes)


def test_the_second_of_two_layers_makes_up_for_the_first() -> None:
    before = model()
    samples = open_samples(data(400, 1), Session.of(before).inputs)
    second, _ = run(before, Lowrank(rank=0.2, align=4, include=("v",)), samples)
    both, _ = run(before, Lowrank(rank=0.2, align=4, include=("u", "v")), samples)
    weights = {name: value.const_value for name, value in second.graph.initializers.items()}
    joined = both.clone()  # the same factors of u, and those of v that know nothing of it
    for name, value in joined.graph.initializers.items():
        if name.startswith("v_factor") or name == "c":
            value.const_value = weights[name]
    assert lost(before, both) < lost(before, joined)


def test_energy_is_retained() -> None:
    _, change = run(model(), Lowrank(energy=0.95, align=4))
    kept = [float(note.reason.split("%")[0]) for note in change.notes if "of its output retained" in note.reason]
    assert kept
    assert min(kept) > 94


def test_same_seed_same_model() -> None:
    before = model()
    one, two = (run(before, Lowrank(params=0.3, align=8, recover=True))[0] for _ in range(2))
    for name, value in one.graph.initializers.items():
        assert value.const_value is not None
        assert value.const_value.tobytes() == two.graph.initializers[name].const_value.tobytes()  # type: ignore[union-attr]


def test_made_up_samples_mean_plain_svd() -> None:
    before = model()
    made_up = synthetic_samples(before, 8, 0, session=Session.of(before))
    after, change = run(before, Lowrank(params=0.3, align=8), made_up)
    plain, _ = run(before, Lowrank(params=0.3, align=8, whiten=False))
    assert any("made up" in note.reason for note in change.notes)
    assert lost(plain, after) < 1e-9


def test_what_is_not_faster_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitTimer, "ratios", lambda self, layers, chosen: [each and 0.93 for each in chosen])
    before = model()
    _, change = run(before, Lowrank(params=0.3, align=8), goal=Goal.LATENCY)
    assert not change.modified
    assert sum("not faster: 0.93x" in note.reason for note in change.notes) > 0
    assert run(before, Lowrank(params=0.3, align=8, pays=SplitGoal.SIZE), goal=Goal.LATENCY)[1].modified


def test_what_is_not_timed_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitTimer, "ratios", lambda self, layers, chosen: [each and "untimed" for each in chosen])
    _, change = run(model(), Lowrank(params=0.3, align=8), goal=Goal.LATENCY)
    assert not change.modified
    assert any("cannot be timed" in note.reason for note in change.notes)


def test_layers_that_get_what_is_not_finite_are_left_alone() -> None:
    before = model()
    bad = data(64, 1)
    bad["x"][0, 0, 0] = np.inf
    _, change = run(before, Lowrank(params=0.3, align=8), open_samples(bad, Session.of(before).inputs))
    assert not change.modified
    assert any("not finite" in note.reason for note in change.notes)


@pytest.mark.parametrize("kind", ["matrix", "pivot"])
def test_inputs_far_from_zero_are_told_apart(kind: str) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,64] x, float w, float b) => (float[N,96] y) { y = Gemm (x, w, b) }"""
    before = from_text(text, w=weight(64, 96), b=weight(96))
    infer_shapes(before)
    x = (1000 + 0.05 * GENERATOR.normal(size=(128, 16)) @ GENERATOR.normal(size=(16, 64))).astype(np.float32)
    samples = open_samples({"x": x}, Session.of(before).inputs)
    after, change = run(before, Lowrank(energy=0.9, align=4, kinds=(kind,)), samples)
    assert change.modified
    one, two = (Session.of(each).run({"x": x})["y"].astype(np.float64) for each in (before, after))
    assert np.square(one - two).sum() < 0.12 * np.square(one - one.mean(axis=0)).sum()


@pytest.mark.parametrize("options", [{"rank": 0.2}, {"rank": 0.2, "recover": True}, {"params": 0.4}])
def test_a_layer_that_gets_other_rows_than_before_goes_by_its_weights(options: dict[str, float]) -> None:
    """Which rows the second layer gets depends on the first."""
    text = """<ir_version: 10, opset_import: ["" : 18]>
    g (float[N,64] x, float u, float v, float b, float zero, int64[1] axis) => (float[M,64] y) {
        p = MatMul (x, u) r = Relu (p) s = ReduceMean <keepdims=0> (p, axis) c = Greater (s, zero)
        q = Compress <axis=0> (r, c) y = Gemm (q, v, b) }"""
    constants = {"zero": np.float32(0), "axis": np.array([1])}
    before = from_text(text, u=weight(64, 96), v=weight(96, 64), b=np.float32(100) + weight(64), **constants)
    infer_shapes(before)
    x = {"x": GENERATOR.normal(size=(64, 64)).astype(np.float32)}
    after, change = run(before, Lowrank(align=4, **options), open_samples(x, Session.of(before).inputs))  # type: ignore[arg-type]
    assert change.modified
    one, two = (Session.of(each).run(x)["y"] for each in (before, after))
    np.testing.assert_allclose(one.mean(axis=0), two.mean(axis=0), atol=5)  # the bias is as it was


def test_outputs_without_rows_have_no_error() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,64] x, float u, float v, float least) => (float[N,32] y, float[M,64] z) {
        p = MatMul (x, u) r = Relu (p) y = MatMul (r, v) s = ReduceMax <axes=[1], keepdims=0> (x)
        c = Greater (s, least) z = Compress <axis=0> (x, c) }"""
    before = from_text(text, u=weight(64, 96), v=weight(96, 32), least=np.float32(1e9))
    infer_shapes(before)
    x = {"x": GENERATOR.normal(size=(64, 64)).astype(np.float32)}
    assert run(before, Lowrank(params=0.4, align=4), open_samples(x, Session.of(before).inputs))[1].modified


def test_a_rank_that_is_faster_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a half of the parameters is faster: break-even goes down to that."""

    def ratios(
        self: SplitTimer, layers: Sequence[object], chosen: Sequence[SplitCandidate | None]
    ) -> list[float | None]:
        return [each and (1.2 if each.macs < 0.5 else 0.98) for each in chosen]

    monkeypatch.setattr(SplitTimer, "ratios", ratios)
    before = model()
    after, change = run(before, Lowrank(breakeven=True, align=8), goal=Goal.LATENCY)
    assert change.modified
    assert measure_cost(after).macs < 0.5 * measure_cost(before).macs


def test_windows_that_are_faster_with_a_sixth_of_their_parameters_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def ratios(
        self: SplitTimer, layers: Sequence[LinearLayer], chosen: Sequence[SplitCandidate | None]
    ) -> list[float | None]:
        pairs = zip(layers, chosen, strict=True)
        return [each and (1.2 if each.parameters < layer.parameters / 6 else 0.98) for layer, each in pairs]

    monkeypatch.setattr(SplitTimer, "ratios", ratios)
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,32,8,8] x, float w) => (float[N,32,8,8] y) { y = Conv <pads=[1,1,1,1]> (x, w) }"""
    core = np.einsum("oa,abkl,bi->oikl", weight(32, 8), weight(8, 8, 3, 3), weight(8, 32))
    before = from_text(text, w=core.astype(np.float32))
    infer_shapes(before)
    x = open_samples({"x": GENERATOR.normal(size=(40, 32, 8, 8)).astype(np.float32)}, Session.of(before).inputs)
    after, change = run(before, Lowrank(energy=0.95, align=4), x, goal=Goal.LATENCY)
    assert change.modified
    assert measure_cost(after).parameters < measure_cost(before).parameters / 6


@pytest.mark.timing
def test_a_large_layer_of_low_rank_is_faster_here() -> None:
    low = (GENERATOR.normal(size=(1024, 16)) @ GENERATOR.normal(size=(16, 1024)) / 100).astype(np.float32)
    before = from_text(
        '<ir_version: 10, opset_import: ["" : 17]> g (float[N,1024] x, float w) => (float[N,1024] y) {'
        " y = MatMul (x, w) }",
        w=low,
    )
    infer_shapes(before)
    x = {"x": GENERATOR.normal(size=(64, 1024)).astype(np.float32)}
    after, change = run(before, Lowrank(), open_samples(x, Session.of(before).inputs), Goal.LATENCY)
    assert change.modified
    assert sorted(value.shape.numpy() for value in after.graph.initializers.values() if value.shape) == [
        (16, 1024),
        (1024, 16),
    ]
    one, two = (Session.of(each).run(x)["y"] for each in (before, after))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_names_choose_layers() -> None:
    before = model()
    after, change = run(before, Lowrank(params=0.3, align=8, include=("v",)))
    assert change.modified
    assert "v" not in after.graph.initializers
    assert {"u", "w"} <= set(after.graph.initializers)
    _, change = run(before, Lowrank(params=0.3, align=8, exclude=("u", "v", "w")))
    assert not change.modified
    assert {note.reason for note in change.notes[1:]} == {"in exclude"}


def test_kinds_choose_splits() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,32,8,8] x, float w, float b) => (float[N,48,8,8] y) { y = Conv <pads=[1,1,1,1]> (x, w, b) }"""
    before = from_text(text, w=weight(48, 32, 3, 3), b=weight(48))
    infer_shapes(before)
    x = open_samples({"x": GENERATOR.normal(size=(40, 32, 8, 8)).astype(np.float32)}, Session.of(before).inputs)
    counts = {}
    for kind in ("tucker", "spatial", "separable"):
        after, change = run(before, Lowrank(params=0.4, align=8, kinds=(kind,)), x)
        assert any(note.action.startswith(kind) for note in change.notes)
        counts[kind] = len(list(after.graph))
    assert counts["spatial"] == counts["separable"] == 2
    change = run(before, Lowrank(params=0.4, kinds=("matrix",)), x)[1]
    assert not change.modified
    assert any(note.reason.startswith("kinds leaves out") for note in change.notes)


def test_a_budget_that_is_missed_is_said_so() -> None:
    (first, *_) = run(model(), Lowrank(params=0.95))[1].notes
    assert first.reason.startswith("95.0% was asked for")
    (first, *_) = run(model(), Lowrank(params=0.3, align=8))[1].notes
    assert not first.reason


def test_few_samples_are_said_to_be_few() -> None:
    before = model()
    for count, few in ((4, True), (64, False)):
        samples = open_samples(data(count, 1), Session.of(before).inputs)
        change = run(before, Lowrank(params=0.3, align=8), samples)[1]
        (reason,) = [note.reason for note in change.notes if note.subject == "factors"]
        assert reason.startswith("few") == few


def test_macs_of_a_weight_that_works_on_several_sizes_are_all_counted() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,16,8,8] x, float w) => (float[N,64,8,8] y, float[N,64,4,4] z) {
        y = Conv <pads=[1,1,1,1]> (x, w) p = AveragePool <kernel_shape=[2,2], strides=[2,2]> (x)
        z = Conv <pads=[1,1,1,1]> (p, w) }"""
    before = from_text(text, w=weight(64, 16, 3, 3))
    infer_shapes(before)
    x = {"x": GENERATOR.normal(size=(40, 16, 8, 8)).astype(np.float32)}
    after, change = run(before, Lowrank(params=0.5, align=4), open_samples(x, Session.of(before).inputs))
    one, two = (measure_cost(specialize_shapes(each, {"x": (1, 16, 8, 8)})).macs for each in (before, after))
    assert {each.macs_before for each in change.layers} == {one}
    assert {each.macs_after for each in change.layers} == {two}


def test_the_pivoted_form_loses_less_with_as_many_parameters_and_only_when_asked() -> None:
    before = model()
    plain, change = run(before, Lowrank(params=0.3, align=8))
    pivoted, _ = run(before, Lowrank(params=0.3, align=8, kinds=("pivot",)))
    assert not any(note.action.startswith("pivot") for note in change.notes)
    assert measure_cost(pivoted).parameters < 0.75 * measure_cost(before).parameters
    assert lost(before, pivoted) < 0.7 * lost(before, plain)
    assert "Concat" in [node.op_type for node in pivoted.graph]


def test_factors_of_full_rank_are_multiplied_out_first() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,64] x, float u, float v) => (float[N,64] y) { a = MatMul (x, u) y = MatMul (a, v) }"""
    before = from_text(text, u=weight(64, 64), v=weight(64, 64))
    infer_shapes(before)
    samples = open_samples({"x": GENERATOR.normal(size=(64, 64)).astype(np.float32)}, Session.of(before).inputs)
    after, change = run(before, Lowrank(energy=0.9999), samples)
    assert change.modified
    assert len(list(after.graph)) == 1


def test_lowrank_runs_between_prune_and_quant() -> None:
    order = [step.name for step in schedule([Quant(), Lowrank()])]
    assert order.index("lowrank") < order.index("quant")
    assert "prune" in Lowrank.after


@pytest.mark.parametrize(
    "options",
    [
        {"energy": 1.5},
        {"params": 0.0},
        {"rank": -1.0},
        {"align": 0},
        {"kinds": ("svd",)},
        {"energy": 0.9, "rank": 0.5},
        {"params": 0.3, "breakeven": True},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(BadOptionValue):
        Lowrank(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("product", ["Gemm (q, v, x)", "Gemm <beta = 0.5> (q, v, x)", "Gemm <alpha = 2.0> (q, v)"])
def test_products_are_split_whatever_is_added_to_them(product: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 17]>
    g (float[N,64] x, float u, float v, float w) => (float[N,32] y, float[N,64] z) {{
        p = MatMul (x, u) q = Relu (p) r = {product} y = MatMul (r, w) z = Gemm <alpha = 3.0> (q, v)
    }}"""
    before = from_text(text, u=weight(64, 96), v=weight(96, 64), w=weight(64, 32))
    samples = open_samples({"x": GENERATOR.normal(size=(16, 64)).astype(np.float32)}, Session.of(before).inputs)
    _, change = run(before, Lowrank(rank=0.25, align=1, smallest=1, pays=SplitGoal.SIZE), samples)
    assert {each.layer for each in change.layers} >= {"p", "y"}
    assert len([layer for layer in change.layers if layer.after < layer.before]) == 3, change.notes
    assert len([note for note in change.notes if "bias" in note.reason or "alpha" in note.reason]) == 0


def test_what_is_too_small_is_said_with_the_option_that_splits_it() -> None:
    before = from_text(
        """<ir_version: 10, opset_import: ["" : 17]> g (float[N,32] x, float u) => (float[N,48] y) {
            y = MatMul (x, u) }""",
        u=weight(32, 48),
    )
    samples = open_samples({"x": GENERATOR.normal(size=(16, 32)).astype(np.float32)}, Session.of(before).inputs)
    _, change = run(before, Lowrank(rank=0.25), samples)
    assert "too small: 32 x 48, and smallest is 4096" in {note.reason for note in change.notes}
    _, change = run(before, Lowrank(rank=0.25, smallest=1000), samples)
    assert change.modified
    with pytest.raises(BadOptionValue, match="smallest"):
        Lowrank(smallest=0)


def exactly_low() -> dict[str, np.ndarray]:
    """Return windows that have an exact split: [32 filters, 24 channels, 3, 3]."""
    generator = np.random.default_rng(5)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape)

    filters = normal(4, 24, 3, 3)
    column, row = normal(24, 3), normal(24, 3)
    few = np.einsum("rs,sikl->rikl", normal(32, 3), normal(3, 24, 3, 3))
    return {
        "double filters": filters[generator.integers(0, 4, 32)],
        "filters of rank 3": few,
        "channels of rank 3": np.einsum("orkl,ri->oikl", normal(32, 3, 3, 3), normal(3, 24)),
        "one window for each channel": normal(32, 24)[:, :, None, None] * normal(24, 3, 3),
        "columns times rows": np.einsum("orl,rik->oikl", normal(32, 3, 3), normal(3, 24, 3)),
        "separable kernels": normal(32, 24)[:, :, None, None] * (column[:, :, None] * row[:, None, :]),
        "of full rank": normal(32, 24, 3, 3),
        "hardly any": 1e-4 * normal(32, 24, 3, 3) + few,
    }


@pytest.mark.parametrize("name", exactly_low())
@pytest.mark.parametrize(("energy", "whiten"), [(0.99, True), (0.8, True), (0.9, False)])
def test_what_is_asked_of_a_layer_holds_of_what_was_made(name: str, energy: float, whiten: bool) -> None:
    before = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,24,6,6] x) => (float[N,32,6,6] y) {
            y = Conv <pads = [1,1,1,1]> (x, w) }""",
        w=exactly_low()[name].astype(np.float32),
    )
    infer_shapes(before)
    inputs = {"x": np.random.default_rng(1).normal(size=(24, 24, 6, 6)).astype(np.float32)}
    samples = open_samples(inputs, Session.of(before).inputs)
    after, change = run(before, Lowrank(energy=energy, align=1, whiten=whiten), samples)
    one, two = (Session.of(each).run(inputs)["y"].astype(np.float64) for each in (before, after))
    assert np.square(one - two).sum() <= 1.15 * (1 - energy) * np.square(one).sum(), change.notes
    if name != "of full rank":
        assert measure_cost(after).parameters < 0.5 * measure_cost(before).parameters


def test_a_model_that_was_split_before_keeps_what_is_asked() -> None:
    samples = open_samples(data(64, 1), Session.of(model()).inputs)
    once, _ = run(model(), Lowrank(rank=0.2, align=1, kinds=("matrix",)), samples)
    infer_shapes(once)
    twice, _ = run(once, Lowrank(energy=0.99, align=1), samples)
    assert lost(once, twice) < 0.05
