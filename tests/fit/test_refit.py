"""Fitting layers after a cut: nothing changes where nothing was cut, and what others make up for comes back."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import built, weight

from onnxslim.analysis.contraction import contractions
from onnxslim.data import Samples, open_samples
from onnxslim.fit.normalisation import CutNormalisation, has_own_affine, refit_affine
from onnxslim.fit.refit import ROUNDS, Fit, fits, refit
from onnxslim.observe.stream import Stream, early_order
from onnxslim.runtime.session import Session

IMAGES = np.random.default_rng(5).normal(size=(256, 3, 8, 8)).astype(np.float32)


def block() -> ir.Model:
    return built(
        """g (float[N,3,8,8] x) => (float[N,4] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1, b1) r = Relu (a)
            c = Conv <pads=[1,1,1,1]> (r, w2, b2) d = Relu (c)
            e = Conv <group=2, strides=[1,1]> (d, w3, b3) s = Conv (r, w4, b4) f = Add (e, s) h = Relu (f)
            p = GlobalAveragePool (h) q = Flatten (p) m = MatMul (q, w5) y = Add (m, b5)
        }""",
        w1=weight(8, 3, 3, 3), b1=weight(8), w2=weight(8, 8, 3, 3), b2=weight(8), w3=weight(8, 4, 1, 1), b3=weight(8),
        w4=weight(8, 8, 1, 1), b4=weight(8), w5=weight(8, 4), b5=weight(4),
    )  # fmt: skip


def samples(model: ir.Model, images: np.ndarray = IMAGES) -> Samples:
    return open_samples({"x": images}, Session.of(model).inputs)


def fitted(model: ir.Model, before: ir.Model) -> list[tuple[int, int]]:
    chosen = [Fit(each, 1, np.arange(each.outputs)) for each in contractions(model.graph) if fits(each)]
    told: list[tuple[int, int]] = []
    generator = np.random.default_rng(0)
    refit(model, before, chosen, samples(model), generator, Session.of, lambda *each: told.append(each))
    return told


def test_what_was_not_cut_does_not_change() -> None:
    model = block()
    before = model.clone()
    told = fitted(model, before)
    assert told[-1] == (len(told), len(told)) == (4, 4)
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), before.graph.initializers[name].const_value.numpy())


def put(model: ir.Model, name: str, array: np.ndarray) -> None:
    model.graph.initializers[name].const_value = ir.tensor(array, name=name)


def test_a_channel_that_another_repeats_is_made_up_for() -> None:
    """The second half of the channels repeats the first; readers that lose it come back by their other weights."""
    model = block()
    for name in ("w1", "b1", "w2", "b2"):
        array = model.graph.initializers[name].const_value.numpy().copy()
        array[4:] = array[:4]
        put(model, name, array)
    before = model.clone()
    for name in ("w2", "w4"):
        array = model.graph.initializers[name].const_value.numpy().copy()
        array[:, 4:] = 0
        put(model, name, array)
    wanted, cut = (Session.of(each).run({"x": IMAGES})["y"] for each in (before, model))
    fitted(model, before)
    now = Session.of(model).run({"x": IMAGES})["y"]
    assert np.square(now - wanted).sum() < np.square(cut - wanted).sum() / 1000


def test_what_a_rectifier_cuts_off_need_not_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(7)
    whole = generator.normal(size=(16, 12)).astype(np.float32)
    text = "g (float[N,16] x) => (float[N,12] y) { r = Mul (x, kept) p = Gemm (r, w, b) y = Relu (p) }"
    x = generator.normal(size=(256, 16)).astype(np.float32)
    errors = {}
    for rounds in (ROUNDS, 0):
        monkeypatch.setattr("onnxslim.fit.refit.ROUNDS", rounds)
        masks = np.ones(16, np.float32), (np.arange(16) < 12).astype(np.float32)
        before, model = (built(text, kept=each, w=whole, b=np.full(12, -3, np.float32)) for each in masks)
        chosen = [Fit(each, 1, np.arange(12)) for each in contractions(model.graph) if fits(each)]
        given = open_samples({"x": x}, Session.of(model).inputs)
        refit(model, before, chosen, given, np.random.default_rng(0), Session.of, lambda *_: None)
        wanted, now = (Session.of(each).run({"x": x})["y"] for each in (before, model))
        errors[rounds] = float(np.square(now - wanted).sum())
    assert errors[ROUNDS] < 0.98 * errors[0]


def test_layers_that_get_other_rows_than_before_are_fitted_to_those_that_correspond() -> None:
    """Which rows come behind Compress depends on the first layer; the first batch has as many as before."""
    text = """g (float[N,8] x) => (float[M,4] y) { p = MatMul (x, u) s = ReduceMax <keepdims=0> (p, axes)
        c = Greater (s, least) q = Compress <axis=0> (p, c) h = Gemm (q, v, b)
        y = LayerNormalization (h, scale, shift) }"""
    constants = {"least": np.float32(1), "axes": np.array([1]), "v": weight(8, 4)}
    constants |= {name: weight(4) for name in ("b", "scale", "shift")}
    u = np.eye(8, dtype=np.float32)
    x = np.random.default_rng(3).normal(size=(256, 8)).astype(np.float32)
    for factor, fitted in ((0.7, False), (1.0, True)):
        before, model = (built(text, u=array, **constants) for array in (u, factor * u))
        put(model, "v", 0 * constants["v"])
        (each,) = [each for each in contractions(model.graph) if fits(each)]
        norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
        given = open_samples({"x": x}, Session.of(model).inputs)
        refit(
            model, before, [Fit(each, 1, np.arange(4))], given, np.random.default_rng(0), Session.of,
            lambda *_: None, normalisations=[CutNormalisation(norm, 1, np.arange(4))],
        )  # fmt: skip
        held = model.graph.initializers["v"].const_value
        assert held is not None
        assert fitted == bool(held.numpy().any())


def test_the_end_of_a_block_corrects_its_shortcut() -> None:
    model = block()
    before = model.clone()
    array = model.graph.initializers["w4"].const_value.numpy().copy()
    put(model, "w4", array * 0)
    # The shortcut stays as it is; the branch may answer for it.
    (end,) = [each for each in contractions(model.graph) if each.weight.name == "w3"]
    generator = np.random.default_rng(0)
    wanted, cut = (Session.of(each).run({"x": IMAGES})["y"] for each in (before, model))
    refit(model, before, [Fit(end, 1, np.arange(8))], samples(model), generator, Session.of, lambda *each: None)
    now = Session.of(model).run({"x": IMAGES})["y"]
    assert np.square(now - wanted).sum() < np.square(cut - wanted).sum() / 2


def test_short_branches_come_before_the_ends_of_long_ones() -> None:
    order = [node.outputs[0].name for node in early_order(block().graph)]
    assert order.index("s") < order.index("e")


def test_a_stream_gives_what_the_whole_model_gives_and_holds_no_more_than_it_needs() -> None:
    model = block()
    stream = Stream(model, list(samples(model).batches(100)), Session.of)
    whole = Session.of(model).run({"x": IMAGES})["y"]
    order = [node.outputs[0].name for node in stream.order]
    stream.advance(order.index("e"), {"y"})
    assert [len(each) for each in stream["d"]] == [100, 100, 56]
    with pytest.raises(KeyError):
        stream["x"]
    stream.advance(len(order), {"y"})
    np.testing.assert_allclose(np.concatenate(stream["y"]), whole, atol=1e-5)
    with pytest.raises(KeyError):
        stream["d"]


def test_normalisations_get_back_what_they_gave() -> None:
    model = built(
        "g (float[N,4] x) => (float[N,4] y) { y = LayerNormalization <axis=-1> (x, s, b) }", s=weight(4), b=weight(4)
    )
    (node,) = model.graph
    assert has_own_affine(node)
    images = np.random.default_rng(2).normal(size=(64, 4)).astype(np.float32)
    then = Session.of(model).run({"x": images})["y"]
    refit_affine(CutNormalisation(node, 1, np.arange(4)), [then], [then * 2 + 1])
    now = Session.of(model).run({"x": images})["y"]
    np.testing.assert_allclose(now, then * 2 + 1, atol=1e-2)
    held = model.graph.initializers["s"].const_value
    refit_affine(CutNormalisation(node, 1, np.arange(4)), [now], [now])
    refit_affine(CutNormalisation(node, 1, np.arange(4)), [now], [3 * now[:10]])  # other rows than before
    assert model.graph.initializers["s"].const_value is held
