"""Channels of unequal width are equalised where that costs the outputs less, and left alone, with the reason, else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant, equalisation, quantizer
from onnxslim.passes.quant.channel_weights import ChannelWeights
from onnxslim.passes.quant.equalisation import EqualChannels, Factors, balanced_factors
from onnxslim.passes.quant.float_change import deviation
from onnxslim.passes.quant.saturation import Saturation
from onnxslim.passes.quant.scales import Activations, Calibration
from onnxslim.passes.quant.weights import Rounding
from sample_models import from_text
from story import HERE, make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.arrays import Array, Floats
from onnxslim.data import open_samples, synthetic_samples
from onnxslim.errors import BadOptionValue
from onnxslim.pipeline.interface import Change, NoteKind
from onnxslim.runtime.session import Session

NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,12,12] x) => (float[N,4] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u, b)  r = Relu (a)
    c = Conv <pads = [1, 1, 1, 1]> (r, v, d)  s = Add (c, r)  q = Relu (s)
    e = Conv (q, k)  h = Relu (e)
    p = GlobalAveragePool (h)  f = Flatten (p)  y = MatMul (f, w) }"""
FAST = {"calibration": Calibration.MINMAX, "rounding": Rounding.NEAREST, "float_time": 0.0}


def net(spread: float) -> ir.Model:
    """Return a small residual net whose channels differ in width by a factor; what they count for does not."""
    generator = np.random.default_rng(0)
    sizes = {"u": (16, 3, 3, 3), "b": (16,), "v": (16, 16, 3, 3), "d": (16,), "k": (8, 16, 1, 1), "w": (8, 4)}
    weights = {name: generator.normal(size=size) for name, size in sizes.items()}
    factors = np.geomspace(1, spread, 16)[generator.permutation(16)]
    for made in ("u", "b", "v", "d"):
        weights[made] = weights[made] * factors.reshape(-1, *[1] * (weights[made].ndim - 1))
    weights["v"], weights["k"] = (weights[name] / factors[:, None, None] for name in ("v", "k"))
    return from_text(NET, **{name: array.astype(np.float32) for name, array in weights.items()})


IMAGES = np.random.default_rng(1).normal(size=(96, 3, 12, 12)).cumsum(axis=3).astype(np.float32)


SEVEN_BITS = {"saturation": Saturation.REDUCE_RANGE}
"""Where pairs of weights are bounded, channels of other widths fit better into the bound: equal ones do not stay."""


def quantized(model: ir.Model, **options: object) -> tuple[ir.Model, Change]:
    after = model.clone()
    change = Quant(**{**FAST, **options}).run(after, make_context(model, {"x": IMAGES[:32]}, target=HERE))  # type: ignore[arg-type]
    assert change.modified
    return after, change


def error(model: ir.Model, after: ir.Model, images: Array = IMAGES[32:]) -> float:
    """Return the energy of what int8 changes on images that were not seen, relative to the outputs."""
    before, got = (Session.of(either, HERE).run({"x": images})["y"] for either in (model, after))
    return float(np.square(got - before).sum() / np.square(before).sum())


def told(change: Change) -> tuple[NoteKind, str]:
    (note,) = [note for note in change.notes if note.subject == "channels"]
    return note.kind, note.code


def test_channels_of_unequal_width_are_equalised() -> None:
    model = net(spread=100)
    plain, _ = quantized(model, equalize=False)
    equal, change = quantized(model)
    assert told(change)[0] is NoteKind.REMARK
    (note,) = [note for note in change.notes if note.subject == "channels"]
    assert note.action == "24 equalised"
    assert "smaller on samples that were set apart" in note.reason
    assert error(model, equal) < error(model, plain) / 4


def test_fitted_rounding_and_choices_of_scales_work_on_the_equalised_model() -> None:
    model = net(spread=100)
    options = {"calibration": Calibration.AUTO, "rounding": Rounding.FITTED, "float_time": 0.05}
    plain, equal = (quantized(model, equalize=choice, **options)[0] for choice in (False, True))
    assert error(model, equal) < error(model, plain) / 2


def test_another_try_of_the_same_pass_gives_the_same_model() -> None:
    model = net(spread=100)
    opened: list[ir.Model] = []

    def open_session(probe: ir.Model) -> Session:
        opened.append(probe)
        return Session.of(probe, HERE)

    context = make_context(model, {"x": IMAGES[:32]}, target=HERE, open_session=open_session)
    first, second = model.clone(), model.clone()
    counts = []
    for copy in (first, second):
        assert Quant(**FAST).run(copy, context).modified  # type: ignore[arg-type]
        counts.append(len(opened))
    assert counts[0] == counts[1], "all is known"
    for one, two in zip(first.graph.initializers.values(), second.graph.initializers.values(), strict=True):
        assert one.const_value is not None
        assert two.const_value is not None
        np.testing.assert_array_equal(one.const_value.numpy(), two.const_value.numpy())


def test_equal_channels_stay_and_the_reason_is_told() -> None:
    model = net(spread=1)
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(np.sign(value.const_value.numpy()))
    after, change = quantized(model, **SEVEN_BITS)
    kind, code = told(change)
    assert kind is NoteKind.LEFT_ALONE
    assert code in ("already-equal", "not-better-equal")
    plain, _ = quantized(model, equalize=False, **SEVEN_BITS)
    assert error(model, after) == error(model, plain)


def test_what_nothing_passes_on_is_told() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,12,12] x) => (float[N,4,10,10] y) {
        y = Conv (x, u) }"""
    model = from_text(text, u=np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32))
    assert told(quantized(model)[1]) == (NoteKind.LEFT_ALONE, "not-scalable")


def test_factors_that_cost_the_outputs_more_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def absurd(channels: EqualChannels, *_: object) -> Factors:
        return Factors(np.geomspace(1e-3, 1e3, channels.found.coupling.labels.count), 0.1)

    monkeypatch.setattr(quantizer, "fitted_factors", absurd)
    model = net(spread=1)
    after, change = quantized(model, **SEVEN_BITS)
    assert told(change) == (NoteKind.LEFT_ALONE, "not-better-equal")
    assert error(model, after) == error(model, quantized(model, equalize=False, **SEVEN_BITS)[0])


def test_a_float_model_that_changes_is_not_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "deviation", lambda *_: 1e-3)
    assert told(quantized(net(spread=100))[1]) == (NoteKind.LEFT_ALONE, "not-exact")


def test_the_energy_of_a_difference_is_measured() -> None:
    model, context = net(spread=1), make_context(net(spread=1), {"x": IMAGES[:32]}, target=HERE)
    other = model.clone()
    doubled = other.graph.initializers["w"]
    assert doubled.const_value is not None
    doubled.const_value = ir.tensor(doubled.const_value.numpy() * np.float32(1.1))
    samples = open_samples({"x": IMAGES}, Session.of(model, HERE).inputs)
    assert deviation(model, other, samples, context) == pytest.approx(0.01, rel=1e-3)
    assert deviation(model, model, samples, context) == 0


def test_without_samples_the_weights_of_two_layers_in_a_row_become_equally_large() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,4,4] x) => (float[N,5,4,4] y) {
        a = Conv (x, u, b)  r = Relu (a)  y = Conv (r, v) }"""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(6, 3, 1, 1)), generator.normal(size=(5, 6, 1, 1))
    first[2], second[:, 4] = 0, 0  # a dead channel, and one that nothing reads
    weights = {"u": first, "b": generator.normal(size=6), "v": second}
    model = from_text(text, **{name: array.astype(np.float32) for name, array in weights.items()})
    infer_shapes(model)
    channels = EqualChannels(model)
    scaled = channels.scaled(balanced_factors(channels.found))

    def widths(of: ir.Model) -> Array:
        made, read = (np.abs(of.graph.initializers[name].const_value.numpy()) for name in ("u", "v"))  # type: ignore[union-attr]
        return np.stack([made.max(axis=(1, 2, 3)), read.max(axis=(0, 2, 3))])

    alive = [0, 1, 3, 5]
    made, read = widths(scaled)[:, alive]
    np.testing.assert_allclose(made, read, rtol=1e-4)
    # Section 4.1 of the paper: both are the root of the product of what they were.
    np.testing.assert_allclose(made, np.sqrt(widths(model)[:, alive].prod(axis=0)), rtol=1e-4)
    np.testing.assert_array_equal(widths(scaled)[:, [2, 4]], widths(model)[:, [2, 4]])


def test_synthetic_samples_balance_weights() -> None:
    model = net(spread=1000)
    noise = np.random.default_rng(2).normal(size=(64, 3, 12, 12)).astype(np.float32)
    errors = []
    for equalize in (False, True):
        after = model.clone()
        context = make_context(model, synthetic_samples(model, 32), target=HERE)
        change = Quant(equalize=equalize, **FAST).run(after, context)  # type: ignore[arg-type]
        errors.append(error(model, after, noise))
    assert told(change)[0] is NoteKind.REMARK
    assert errors[1] < errors[0] / 4


def derivative(term: equalisation._TensorTerm | equalisation._WeightTerm, unknowns: Floats) -> Floats:
    steps = 1e-6 * np.eye(len(unknowns))
    ends = [[term.error(unknowns + sign * step)[0] for sign in (1, -1)] for step in steps]
    return np.array([(high - low) / 2e-6 for high, low in ends])


@pytest.mark.parametrize("kind", ["tensor", "symmetric", "weight"])
def test_derivatives_are_those_of_the_error(kind: str) -> None:
    generator = np.random.default_rng(0)
    places = np.array([0, 1, -1, 2, 1, 3])
    positive = generator.uniform(0.5, 2, (4, 6))
    term: equalisation._TensorTerm | equalisation._WeightTerm
    if kind == "weight":
        largest = generator.uniform(0, 2, (2, 3, 5))
        term = equalisation._WeightTerm(
            places.reshape(2, 3), largest, positive[0].reshape(2, 3), generator.uniform(size=(2, 5)), 1.0
        )
    else:
        sides = (positive[0], positive[1] * (np.arange(6) > 1)) if kind == "tensor" else (positive[0],)
        term = equalisation._TensorTerm(places, sides, positive[2], 1.0)
    unknowns = generator.normal(size=4)
    slope = np.zeros(4)
    inner = places >= 0
    np.add.at(slope, places[inner], term.error(unknowns)[1].ravel()[inner])
    np.testing.assert_allclose(slope, derivative(term, unknowns), rtol=1e-5)


def test_channels_count_as_much_as_the_weights_behind_them_make_of_them() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
        a = Conv (x, u)  r = Relu (a)  c = Conv (x, t)  s = Add (r, c)  y = Conv (s, v) }"""
    generator = np.random.default_rng(0)
    read = np.array([[1, 2, 0], [2, 0, 0]], np.float32).reshape(2, 3, 1, 1)
    drawn = generator.normal(size=(2, 3, 3, 1, 1)).astype(np.float32)
    model = from_text(text, u=drawn[0], t=drawn[1], v=read)
    infer_shapes(model)
    channels = EqualChannels(model)
    values = {value.name: value for node in channels.found.model.graph for value in node.outputs}
    alive = {values["r"]: np.array([0.5, 1.0, 1.0])}
    weights = ChannelWeights(channels.found, {"s": 18.0}, alive)
    np.testing.assert_allclose(weights.of(values["s"], 3), [10, 8, 0])
    np.testing.assert_allclose(weights.of(values["c"], 3), [10, 8, 0])
    np.testing.assert_allclose(weights.of(values["a"], 3), [5, 8, 0])
    np.testing.assert_array_equal(weights.of(values["s"], 4), np.ones(4))


def test_the_option_needs_activations_of_levels() -> None:
    with pytest.raises(BadOptionValue, match="equalize"):
        Quant(equalize=False, activations=Activations.DYNAMIC)


def test_weights_of_excluded_nodes_stay_as_they_are() -> None:
    model = net(spread=100.0)
    for node in model.graph:
        node.name = node.outputs[0].name
    after, _ = quantized(model, exclude=("c",))
    np.testing.assert_array_equal(
        after.graph.initializers["v"].const_value.numpy(),  # type: ignore[union-attr]
        model.graph.initializers["v"].const_value.numpy(),  # type: ignore[union-attr]
    )


def test_outputs_that_are_no_floats_say_nothing_of_channels() -> None:
    text = NET.replace("(float[N,4] y)", "(int64[N,1] y)").replace(
        "y = MatMul (f, w)", "z = MatMul (f, w) y = ArgMax <axis = 1> (z)"
    )
    model = net(spread=100.0)
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]
    model = from_text(text, **weights)
    samples = synthetic_samples(model, 32)
    assert Quant(**FAST).run(model, make_context(model, samples, target=HERE)).modified  # type: ignore[arg-type]
