"""Shares of parameters, bytes and milliseconds; the same share of each group; what options rule out."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_models import CHANNEL_MODELS, built, weight
from onnxslim.passes.prune import Prune
from onnxslim.passes.prune.allocation import Limits, allocate, allocate_evenly, blocks
from onnxslim.passes.prune.cutting import cut
from onnxslim.passes.prune.group_filter import GroupFilter, Units, in_one_piece
from onnxslim.passes.prune.timing import MillisecondsLeft
from onnxslim.passes.quant import Quant
from story import make_context

from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.coupling import Coupling, couple, groups
from onnxslim.analysis.remaining_cost import Lengths, elements_left, macs_left, weights_left
from onnxslim.analysis.specialize import specialize_shapes
from onnxslim.data import open_samples, synthetic_samples
from onnxslim.errors import BadOptionValue
from onnxslim.model import open_model, save_model
from onnxslim.pipeline.interface import Change, Kind
from onnxslim.pipeline.options import parse_passes
from onnxslim.runtime.layer import Tensor, TimedLayer
from onnxslim.runtime.session import Session

NET = built(
    """g (float[N,3,8,8] x) => (float[N,10] y) {
        a = Conv <pads=[1,1,1,1]> (x, w0, b0) r = Relu (a)
        b = Conv <pads=[1,1,1,1]> (r, w1, b1) s = Relu (b)
        c = Conv <pads=[1,1,1,1]> (s, w2, b2) t = Relu (c)
        p = GlobalAveragePool (t) f = Flatten (p) y = Gemm <transB=1> (f, w, v)
    }""",
    w0=weight(32, 3, 3, 3), b0=weight(32), w1=weight(64, 32, 3, 3), b1=weight(64), w2=weight(48, 64, 3, 3),
    b2=weight(48), w=weight(10, 48), v=weight(10),
)  # fmt: skip


def pruned(model: ir.Model, step: Prune) -> tuple[ir.Model, Change]:
    model = model.clone()
    images = np.random.default_rng(5).normal(size=(32, 3, 8, 8)).astype(np.float32)
    samples = open_samples({"x": images}, Session.of(model).inputs)
    change = step.run(model, make_context(model, samples))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model, change


def some_gone(coupling: Coupling) -> np.ndarray:
    gone = np.zeros(coupling.labels.count, np.bool_)
    for group in groups(coupling):
        more = gone | coupling.labels.removed(group.roots[1:2])
        gone = gone if Lengths(coupling).empties(more) else more
    return gone


def lengths_held(model: ir.Model) -> int:
    """Return the bytes of the lengths that reshapes and slices are given."""
    held = [value.const_value for value in model.graph.initializers.values()]
    return sum(each.nbytes for each in held if each is not None and each.dtype == ir.DataType.INT64)


@pytest.mark.parametrize("name", CHANNEL_MODELS)
def test_what_is_left_is_what_the_cut_model_costs(name: str) -> None:
    model = CHANNEL_MODELS[name].clone()
    coupling = couple(model)
    nothing = np.zeros(coupling.labels.count, np.bool_)
    costs = weights_left(coupling, model), weights_left(coupling, model, in_bytes=True), elements_left(coupling, model)
    cost = measure_cost(model)
    assert [costs[0](nothing), costs[1](nothing)] == [cost.parameters, cost.weight_bytes]
    assert costs[2](nothing) * 4 >= cost.activation_bytes - 64
    gone = some_gone(coupling)
    left, before = (costs[0](gone), costs[1](gone)), lengths_held(model)
    cut(model, coupling, gone)
    cost = measure_cost(model)
    assert left[0] == cost.parameters
    # Nodes that shared their lengths have some of their own.
    assert left[1] + lengths_held(model) - before == cost.weight_bytes


@pytest.mark.parametrize(("option", "field"), [("params", "parameters"), ("size", "weight_bytes")])
def test_the_share_that_was_asked_for_goes(option: str, field: str) -> None:
    left, change = pruned(NET, Prune(**{option: 0.4}, refit=False))
    saved = 1 - getattr(measure_cost(left), field) / getattr(measure_cost(NET), field)
    assert 0.3 < saved < 0.45
    assert any(option in ("params", "size") and "removed" in note.action for note in change.notes)


def test_what_a_channel_saves_depends_on_what_is_counted() -> None:
    wide = built(
        """g (float[1,8,32,32] x) => (float[1,8] y) {
            a = Conv <pads=[1,1,1,1]> (x, w0, b0) r = Relu (a) p = MaxPool <kernel_shape=[16,16], strides=[16,16]> (r)
            f = Flatten (p) b = Gemm (f, w1, b1) s = Relu (b) y = Gemm (s, w2)
        }""",
        w0=weight(32, 8, 3, 3), b0=weight(32), w1=weight(128, 256), b1=weight(256), w2=weight(256, 8),
    )  # fmt: skip
    coupling = couple(wide)
    found = groups(coupling)
    dense = next(group for group in found if len(group.roots) == 256)
    gone = coupling.labels.removed(dense.roots[:64])
    nothing = np.zeros_like(gone)
    macs, parameters = macs_left(coupling), weights_left(coupling, wide)
    assert 1 - macs(gone) / macs(nothing) < 0.02
    assert 1 - parameters(gone) / parameters(nothing) > 0.2
    for cost, least in ((macs, 200), (parameters, 48)):
        choice = allocate(coupling, [dense], [np.ones(256)], 0.2 * cost(nothing), Limits(8, 0.9), cost)
        assert choice.taken[0] >= least


def test_the_same_share_of_every_group() -> None:
    left, _ = pruned(NET, Prune(ratio=0.5, per_layer=True, refit=False))
    widths = [left.graph.initializers[name].shape[0] for name in ("w0", "w1", "w2")]
    shares = np.array(widths) / [32, 64, 48]
    assert shares.max() - shares.min() <= 8 / 32
    assert 0.4 < 1 - measure_cost(left).macs / measure_cost(NET).macs < 0.6
    coupling = couple(NET)
    found = groups(coupling)
    none = allocate_evenly(
        coupling, found, [np.ones(len(g.roots)) for g in found], 0, Limits(8, 0.8), macs_left(coupling)
    )
    assert not none.gone.any()


def test_a_minimum_stays() -> None:
    left, _ = pruned(NET, Prune(ratio=0.7, minimum=24, refit=False))
    assert min(left.graph.initializers[name].shape[0] for name in ("w0", "w1", "w2")) >= 24
    group = groups(couple(NET))[0]
    assert blocks(group, Limits(8, 0.9, len(group.roots))) == []


@pytest.mark.parametrize("units", list(Units))
def test_heads_are_cut_whole_or_within(units: Units) -> None:
    model = CHANNEL_MODELS["attention"]
    coupling = couple(model)
    chosen, notes = GroupFilter(units=units)(coupling)
    whole = {in_one_piece(coupling, group) for group in chosen}
    # Two key heads, each with its two query heads; and the places within the heads.
    assert whole == {Units.AUTO: {True, False}, Units.WHOLE: {True}, Units.WITHIN: {False}}[units]
    assert all(note.reason == f"units={units.value}" for note in notes)


def test_layers_are_told_with_their_widths() -> None:
    left, change = pruned(NET, Prune(ratio=0.4, refit=False))
    rows = {each.layer: each for each in change.layers}
    for output, name in (("a", "w0"), ("b", "w1"), ("c", "w2")):
        width = left.graph.initializers[name].shape[0]
        if output in rows:
            assert (rows[output].op, rows[output].quantity) == ("Conv", "channels")
            assert (rows[output].before, rows[output].after) == (NET.graph.initializers[name].shape[0], width)
    assert sum(each.macs_before - each.macs_after for each in change.layers) == (
        measure_cost(NET).macs - measure_cost(left).macs
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune:ratio=0.3:params=0.3", "ratio and params are given"),
        ("prune:size=0.3:latency=0.3", "size and latency are given"),
        ("prune:params=1.5", r"params is 1\.5"),
        ("prune:latency=0", "latency is 0"),
        ("prune:exact=true:ratio=0.3", "ratio asks for a share"),
        ("prune:exact=true:per_layer=true", "per_layer asks for a share"),
        ("prune:minimum=0", "minimum is 0"),
    ],
)
def test_options_that_contradict_each_other(text: str, message: str) -> None:
    with pytest.raises(BadOptionValue, match=message):
        parse_passes(text)


def test_exact_runs_are_judged_as_exact() -> None:
    assert Prune(exact=True).judged_as is Kind.EXACT
    assert Prune().judged_as is Prune(ratio=0.2).judged_as is Kind.LOSSY
    _, change = pruned(NET, Prune(exact=True))
    assert not change.modified
    assert "dead, constant" in change.notes[0].reason


def test_exact_tells_what_went() -> None:
    model = NET.clone()
    array = model.graph.initializers["w0"].const_value.numpy().copy()
    bias = model.graph.initializers["b0"].const_value.numpy().copy()
    array[3], bias[3] = 0, -1
    array[7], bias[7] = array[1], bias[1]
    for name, held in (("w0", array), ("b0", bias)):
        model.graph.initializers[name].const_value = ir.tensor(held, name=name)
    left, change = pruned(model, Prune(exact=True))
    assert change.modified
    assert [note.action for note in change.notes] == ["1 dead channels removed", "1 double channels removed"]
    assert [(each.layer, each.before, each.after) for each in change.layers] == [("a", 32, 30), ("b", 64, 64)]
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(Session.of(left).run({"x": x})["y"], Session.of(model).run({"x": x})["y"], atol=1e-4)


@dataclasses.dataclass
class Counted:
    """Stands in for a clock: a layer takes as long as its weights are large, in steps of 32 output channels."""

    asked: int = 0

    def milliseconds(self, layers: list[TimedLayer], progress: object = None) -> list[float | None]:
        self.asked += len(layers)
        return [self._of(layer) for layer in layers]

    def _of(self, layer: TimedLayer) -> float:
        tensors = [each for each in layer.steps[0].inputs if isinstance(each, Tensor) and each.constant]
        if not tensors:
            return 0.25
        out, *others = tensors[0].shape
        return 0.25 + 1e-4 * 32 * np.ceil(out / 32) * int(np.prod(others))


def test_milliseconds_follow_the_layers() -> None:
    sized = specialize_shapes(NET)
    coupling = couple(NET)
    found = groups(coupling)
    times = Counted()
    cost = MillisecondsLeft(coupling, sized, found, Limits(8, 0.8), times, 20.0, lambda done, total: None)  # type: ignore[arg-type]
    nothing = np.zeros(coupling.labels.count, np.bool_)
    assert cost(nothing) == pytest.approx(20.0)
    assert cost.measured(nothing) == pytest.approx(20.0)
    group = next(group for group in found if len(group.roots) == 64)
    half = coupling.labels.removed(group.roots[:32])
    assert cost.measured(half) < cost(nothing) - 2.0
    # One channel less does not change the step that the layer is on, only what it reads and makes.
    one = coupling.labels.removed(group.roots[:1])
    assert cost.measured(one) > cost.measured(half)


@pytest.mark.timing
def test_latency_decides_by_layers_timed_here(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("ONNXSLIM_CACHE", str(tmp_path))
    left, change = pruned(NET, Prune(latency=0.3, refit=False))
    assert change.modified
    assert measure_cost(left).macs < measure_cost(NET).macs
    texts = [f"{note.action} {note.reason}" for note in change.notes[:2]]
    assert "of the time removed" in texts[0]
    assert "predicted from layers" in texts[1]
    assert "measured (" in texts[1]
    assert [each.suffix for each in tmp_path.iterdir()] == [".json"]


def test_a_pruned_model_can_be_pruned_again(tmp_path) -> None:
    once, _ = pruned(NET, Prune(ratio=0.3))
    save_model(once, tmp_path / "once.onnx")
    twice, change = pruned(open_model(tmp_path / "once.onnx"), Prune(ratio=0.3))
    assert change.modified
    shares = [measure_cost(each).macs / measure_cost(NET).macs for each in (once, twice)]
    assert shares[0] == pytest.approx(0.7, abs=0.05)
    assert shares[1] == pytest.approx(0.49, abs=0.06)
    without, _ = pruned(once, Prune(ratio=0.3))
    assert ir.to_proto(without).graph.node == ir.to_proto(twice).graph.node


def test_quantized_weights_are_left_alone_and_that_is_said() -> None:
    model = NET.clone()
    samples = synthetic_samples(model, 4)
    context = make_context(model, samples)
    assert Quant().run(model, context).modified
    _, change = pruned(model, Prune(ratio=0.3))
    assert not change.modified
    assert any("quantized" in note.reason for note in change.notes)
