"""Exact pruning finds every channel that was planted, and leaves the outputs as they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_models import CHANNEL_MODELS, built, weight
from insert_dead_channels import plant_dead, plant_double
from onnxslim.passes.prune import exact
from onnxslim.passes.prune.exact import RemovedChannels, remove_exactly
from onnxslim.passes.simplify import Simplify
from story import make_context
from zoo import MODELS, zoo_file

import onnxslim
from onnxslim.analysis.coupling import couple, groups
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.analysis.shared_vectors import retie_vectors, untie_vectors
from onnxslim.data import synthetic_samples
from onnxslim.model import open_model
from onnxslim.pipeline.rewrite_gate import RewriteGate
from onnxslim.runtime.session import Session


def run(model: ir.Model, count: int = 2) -> list[np.ndarray]:
    session = Session.of(model)
    return [array for batch in synthetic_samples(model, count).batches() for array in session.run(batch.feeds).values()]


def removed(model: ir.Model) -> tuple[ir.Model, list[RemovedChannels]]:
    """Return a copy that lost what it could, checked to say the same."""
    before = run(model)
    left = model.clone()
    apart = untie_vectors(left)
    infer_shapes(left)
    found = remove_exactly(left, groups, RewriteGate())
    retie_vectors(left, apart)
    onnx.checker.check_model(ir.to_proto(left), full_check=True)
    for one, other in zip(before, run(left), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * (np.abs(one).max() or 1))
    return left, found


def total(found: list[RemovedChannels]) -> tuple[int, int, int]:
    return sum(each.dead for each in found), sum(each.constant for each in found), sum(each.double for each in found)


def widths(model: ir.Model, *names: str) -> list[tuple[int, ...]]:
    return [tuple(model.graph.initializers[name].const_value.shape.numpy()) for name in names]


def changed(model: ir.Model, **arrays: np.ndarray) -> ir.Model:
    model = model.clone()
    for name, array in arrays.items():
        model.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)
    return model


def rows(array: np.ndarray, **places: object) -> np.ndarray:
    """Return a copy in which some rows were given other numbers."""
    array = array.copy()
    for name, number in places.items():
        array[int(name.removeprefix("at"))] = number
    return array


@pytest.mark.parametrize("name", CHANNEL_MODELS)
def test_random_weights_hold_nothing_to_remove(name: str) -> None:
    left, found = removed(CHANNEL_MODELS[name])
    assert not found
    assert {key: value.shape for key, value in left.graph.initializers.items()} == {
        key: value.shape for key, value in CHANNEL_MODELS[name].graph.initializers.items()
    }


@pytest.mark.parametrize("name", ["residual", "grouped", "attention", "padded"])
def test_dead_channels_of_every_group_go(name: str) -> None:
    model = CHANNEL_MODELS[name].clone()
    coupling = couple(model)
    found = groups(coupling)
    planted = 0
    for group in found:
        if len(group.roots) > 3:
            plant_dead(coupling, group.roots[[1]])
            planted += group.width
    assert planted
    dead, constant, double = total(removed(model)[1])
    assert dead >= planted
    assert (constant, double) == (0, 0)


CHAIN = built(
    """g (float[N,4] x) => (float[N,3] y) {
        a = Gemm (x, w1, b1) r = Relu (a) h = Mul (r, scale) c = Gemm (h, w2, b2) t = Tanh (c) y = Gemm (t, w3, b3)
    }""",
    w1=weight(4, 12), b1=weight(12), scale=weight(12), w2=weight(12, 10), b2=weight(10), w3=weight(10, 3), b3=weight(3),
)  # fmt: skip


def array(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def test_what_an_activation_or_a_factor_makes_zero_is_dead() -> None:
    w1, b1 = array(CHAIN, "w1").copy(), array(CHAIN, "b1").copy()
    w1[:, 2], b1[2] = 0, -3  # the rectifier makes 0 of it
    model = changed(CHAIN, w1=w1, b1=b1, scale=rows(array(CHAIN, "scale"), at5=0))
    left, found = removed(model)
    assert total(found) == (2, 0, 0)
    assert widths(left, "w1", "scale", "w2") == [(4, 10), (10,), (10, 10)]


def test_a_constant_moves_into_the_bias_of_its_reader() -> None:
    w1, b1 = array(CHAIN, "w1").copy(), array(CHAIN, "b1").copy()
    w1[:, 3], b1[3] = 0, 2.5
    left, found = removed(changed(CHAIN, w1=w1, b1=b1))
    assert total(found) == (0, 1, 0)
    expected = array(CHAIN, "b2") + 2.5 * array(CHAIN, "scale")[3] * array(CHAIN, "w2")[3]
    np.testing.assert_allclose(array(left, "b2"), expected, rtol=1e-5)


def test_what_nobody_reads_goes_and_takes_along_what_only_it_read() -> None:
    w1, w2, w3 = (array(CHAIN, name).copy() for name in ("w1", "w2", "w3"))
    w3[[1, 4]] = 0  # two of the last channels are not read; one of the first is read by them alone
    w2[0, [at for at in range(10) if at not in (1, 4)]] = 0
    left, found = removed(changed(CHAIN, w1=w1, w2=w2, w3=w3))
    assert total(found) == (3, 0, 0)
    assert widths(left, "w1", "w2", "w3") == [(4, 11), (11, 8), (8, 3)]


def test_doubles_are_added_up() -> None:
    w1, b1, scale = array(CHAIN, "w1").copy(), array(CHAIN, "b1").copy(), array(CHAIN, "scale").copy()
    w1[:, [4, 7]], b1[[4, 7]], scale[[4, 7]] = w1[:, [0]], b1[0], scale[0]
    left, found = removed(changed(CHAIN, w1=w1, b1=b1, scale=scale))
    assert total(found) == (0, 0, 2)
    w2 = array(CHAIN, "w2")
    np.testing.assert_allclose(array(left, "w2")[0], w2[0] + w2[4] + w2[7], rtol=1e-5)


def test_doubles_that_something_tells_apart_stay() -> None:
    w1, b1 = array(CHAIN, "w1").copy(), array(CHAIN, "b1").copy()
    w1[:, 4], b1[4] = w1[:, 0], b1[0]  # the scale still differs
    assert not removed(changed(CHAIN, w1=w1, b1=b1))[1]


def test_a_constant_under_padding_stays_but_a_zero_goes() -> None:
    model = built(
        """g (float[N,3,6,6] x) => (float[N,2,6,6] y) {
            a = Conv (x, w1, b1) r = Relu (a) y = Conv <pads=[1,1,1,1]> (r, w2)
        }""",
        w1=np.concatenate([np.zeros((2, 3, 1, 1), np.float32), weight(6, 3, 1, 1)]),
        b1=np.concatenate([[1, -1], weight(6)]).astype(np.float32), w2=weight(2, 8, 3, 3),
    )  # fmt: skip
    left, found = removed(model)
    assert total(found) == (1, 0, 0)
    assert widths(left, "w1") == [(7, 3, 1, 1)]


@pytest.mark.parametrize("bias", [True, False])
def test_a_reader_of_its_own_gets_a_bias_as_long_as_what_is_left(bias: bool) -> None:
    """The reader of a constant has no bias yet, and loses a channel in the same cut."""
    w2 = weight(6, 8, 1, 1)
    w2[4] = 0
    weights = {"b2": weight(6)} if bias else {}
    if bias:
        weights["b2"][4] = 0
    model = built(
        f"""g (float[N,3,6,6] x) => (float[N,2,6,6] y) {{
            a = Conv (x, w1, b1) r = Relu (a) b = Conv (r, w2{", b2" if bias else ""}) y = Conv (b, w3)
        }}""",
        w1=np.concatenate([np.zeros((1, 3, 1, 1), np.float32), weight(7, 3, 1, 1)]),
        b1=np.abs(weight(8)), w2=w2, w3=weight(2, 6, 1, 1), **weights,
    )  # fmt: skip
    left, found = removed(model)
    assert sum(total(found)) == 2
    reader = next(node for node in left.graph if node.outputs[0].name == "b")
    assert reader.inputs[2].shape == [5]


def test_a_normalisation_over_channels_needs_all_of_them() -> None:
    model = built(
        "g (float[N,4] x) => (float[N,3] y) { a = Gemm (x, w1, b1) l = LayerNormalization (a, s, b) y = Gemm (l, w2) }",
        w1=np.concatenate([np.zeros((4, 1), np.float32), weight(4, 7)], axis=1),
        b1=np.concatenate([[0], weight(7)]).astype(np.float32), s=weight(8), b=weight(8), w2=weight(8, 3),
    )  # fmt: skip
    assert not removed(model)[1]


def test_the_last_channel_stays() -> None:
    left, _ = removed(changed(CHAIN, w1=np.zeros((4, 12)), b1=np.zeros(12)))
    assert widths(left, "w1") == [(4, 1)]


def test_a_weight_with_a_second_meaning_is_not_added_to() -> None:
    model = built(
        """g (int64[N,2] i) => (float[N,2,20] y) {
            e = Gather (w, i) r = Relu (e) t = Transpose (w) y = MatMul (r, t)
        }""",
        w=np.concatenate([np.ones((20, 2), np.float32), weight(20, 6)], axis=1),
    )  # fmt: skip
    left, _ = removed(model)
    assert widths(left, "w") == [(20, 8)]


@pytest.mark.zoo
@pytest.mark.parametrize("parts", [("onnx", "cifar10_resnet20.onnx"), ("fashion", "resnet8.onnx")])
def test_every_planted_channel_of_a_real_net_is_found(parts: tuple[str, str]) -> None:
    model = open_model(zoo_file(*parts))
    check_planted(model)


def test_every_planted_channel_of_the_model_that_ships_is_found() -> None:
    check_planted(open_model(MODELS / "fashion_resnet8.onnx"))


def check_planted(model: ir.Model) -> None:
    samples = synthetic_samples(model, 1)
    Simplify().run(model, make_context(model, samples))
    apart = untie_vectors(model)
    infer_shapes(model)
    coupling = couple(model)
    found = [group for group in groups(coupling) if len(group.roots) >= 8]
    for group in found:
        plant_double(coupling, int(group.roots[0]), int(group.roots[3]))
        plant_dead(coupling, group.roots[[2, 6]])
    retie_vectors(model, apart)
    left, went = removed(model)
    assert total(went) == (2 * len(found), 0, len(found))
    infer_shapes(left)
    assert sorted(len(group.roots) for group in groups(couple(left))) == sorted(len(each.roots) - 3 for each in found)


MIXING = {
    "LayerNormalization": "n = LayerNormalization (a, s, b)",
    "no scale": "n = LayerNormalization (a, ones)",
    "RMSNormalization": "q = Mul (a, a) m = ReduceMean (q, one) d = Sqrt (m) n = Div (a, d)",
    "Softmax": "n = Softmax <axis = 1> (a)",
    "LogSoftmax": "n = LogSoftmax <axis = -1> (a)",
    "LpNormalization": "n = LpNormalization <axis = 1, p = 1> (a)",
    "ReduceMean": "m = ReduceMean (a, one) n = Sub (a, m)",
    "ReduceMax": "m = ReduceMax (a, one) n = Sub (a, m)",
    "CumSum": "n = CumSum (a, place)",
    "ArgMax": "i = ArgMax <axis = 1> (a) f = Cast <to = 1> (i) n = Add (a, f)",
}


@pytest.mark.parametrize("name", MIXING)
def test_zeros_that_an_op_mixes_in_stay(name: str) -> None:
    """A mean over 12 channels, 2 of them zero, is another than that over the 10: they are no more to be removed than
    any other, though their readers' weights may be zero, too."""
    model = built(
        f"""g (float[N,4] x) => (float[N,3] y) {{
            a = Gemm (x, w1, b1) {MIXING[name]} h = Gemm (n, w2, b2) r = Relu (h) y = Gemm (r, w3, b3)
        }}""",
        w1=weight(4, 12), b1=weight(12), s=weight(12), b=weight(12), ones=np.ones(12, np.float32),
        one=np.array([1]), place=np.array(1),
        w2=weight(12, 10), b2=weight(10), w3=weight(10, 3), b3=weight(3),
    )  # fmt: skip
    w1, b1, w2, w3 = (array(model, each).copy() for each in ("w1", "b1", "w2", "w3"))
    w1[:, [2, 7]], b1[[2, 7]] = 0, 0  # zero
    w1[:, 5], b1[5] = w1[:, 4], b1[4]  # double
    w2[[2, 7, 9]] = 0  # and not read
    w3[6] = 0  # this one, which nothing mixes, goes
    model = changed(model, w1=w1, b1=b1, w2=w2, w3=w3)
    left, found = removed(model)
    assert widths(left, "w1", "b1", "w2", "w3") == [(4, 12), (12,), (12, 9), (9, 3)]
    assert total(found) == (1, 0, 0)
    assert all(not group.mixed for group in groups(couple(model)) if group.name in {each.name for each in found})


@pytest.mark.parametrize("op", ["Sum", "L1", "L2", "SumSquare", "LogSum", "LogSumExp", "Mean", "Max", "Min", "Prod"])
def test_channels_that_a_reduction_ends_stay_unless_they_add_nothing(op: str) -> None:
    """A constant or a double adds to a sum over channels as any other does; 0 adds nothing."""
    model = built(
        f"""g (float[N,4] x) => (float[N,1] y) {{
            a = Gemm (x, w1, b1) r = Sigmoid (a) h = Mul (r, scale) y = Reduce{op} <keepdims=1> (h, along)
        }}""",
        w1=weight(4, 12), b1=weight(12), scale=np.abs(weight(12)) + 1, along=np.array([1]),
    )  # fmt: skip
    w1, b1, scale = (array(model, name).copy() for name in ("w1", "b1", "scale"))
    w1[:, 3] = 0
    w1[:, 5], b1[5], scale[5] = w1[:, 4], b1[4], scale[4]
    constant_and_double = changed(model, w1=w1, b1=b1, scale=scale)
    assert not removed(constant_and_double)[1]
    scale[7] = 0
    inert = op in ("Sum", "L1", "L2", "SumSquare")
    assert total(removed(changed(model, w1=w1, b1=b1, scale=scale))[1]) == (int(inert), 0, 0)


def test_channels_that_a_reduction_carries_on_are_known_behind_it() -> None:
    model = built(
        """g (float[N,4,6] x) => (float[N,3] y) {
            a = MatMul (x, w1) h = Mul (a, scale) s = ReduceSum <keepdims=0> (h, along) y = Gemm (s, w2, b2)
        }""",
        w1=weight(6, 12), scale=rows(weight(12), at2=0), along=np.array([1]), w2=weight(12, 3), b2=weight(3),
    )  # fmt: skip
    assert total(removed(model)[1]) == (1, 0, 0)


LINES = {
    "lstm": (
        """q, m1, m2 = LSTM <hidden_size=8> (h, w2, r2, b2)""",
        {"w2": weight(1, 32, 12), "r2": weight(1, 32, 8), "b2": weight(1, 64)},
    ),
    "rnn": (
        """q, m1 = RNN <hidden_size=8> (h, w2, r2, b2)""",
        {"w2": weight(1, 8, 12), "r2": weight(1, 8, 8), "b2": weight(1, 16)},
    ),
    "attention": (
        """q = com.microsoft.Attention <num_heads=2> (h, w2, b2)""",
        {"w2": weight(12, 24), "b2": weight(24)},
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_what_is_no_plain_sum_takes_no_constant_into_the_bias_behind_it(name: str) -> None:
    """What a constant adds within a gate or a head is not what it adds behind it."""
    middle, weights = LINES[name]
    w1, b1 = weight(6, 12), weight(12)
    w1[:, 3], b1[3] = 0, 2.5
    w1[:, 5], b1[5] = 0, 0
    model = built(
        f"""g (float[5,2,6] x) => (float y) {{
            a = MatMul (x, w1) h = Add (a, b1) {middle} z = Add (q, after) y = MatMul (z, w3)
        }}""",
        w1=w1, b1=b1, **weights, after=weight(8), w3=weight(8, 3),
    )  # fmt: skip
    assert total(removed(model)[1])[:2] == (1, 0)


def test_statistics_over_a_part_of_the_channels_are_noticed() -> None:
    """Group normalization as PyTorch exports it: channels that nobody reads, and doubles, are in the statistics."""
    w1, w3 = weight(12, 3, 1, 1), weight(2, 12, 1, 1)
    w3[:, [1, 5, 9]] = 0
    w1[[3, 7, 11]] = w1[[2, 6, 10]]
    model = built(
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
            a = Conv (x, w1) b = Reshape (a, s) c = InstanceNormalization (b, one, zero) d = Reshape (c, t)
            y = Conv (d, w3)
        }""",
        w1=w1, s=np.array([1, 3, -1]), one=np.ones(3, np.float32), zero=np.zeros(3, np.float32),
        t=np.array([1, 12, 4, 4]), w3=w3,
    )  # fmt: skip
    assert not removed(model)[1]


def test_doubles_stay_where_the_weight_that_reads_them_is_read_elsewhere_too() -> None:
    """Adding the weights of one to those of the other would change what the other reader makes of it."""
    w1, b1 = weight(6, 12), weight(12)
    w1[:, 4], b1[4] = w1[:, 9], b1[9]
    model = built(
        """g (float[N,6] x, float[N,12] z) => (float[N,5] y, float[N,5] o) {
            a = MatMul (x, w1) h = Add (a, b1) r = Relu (h) y = MatMul (r, w2) t = Tanh (r) o = MatMul (t, w2)
        }""",
        w1=w1, b1=b1, w2=weight(12, 5),
    )  # fmt: skip
    assert not removed(model)[1]


SCATTERED = built(
    """g (float[1,3,6,6] x) => (float[1,4,4,4] y, float[1,4,6,6] q) {
        a = Conv <pads = [1,1,1,1]> (x, w)  m = ScatterND (a, places, updates)  y = Conv (m, w2)
        k = Conv <pads = [1,1,1,1]> (x, w3)  r = Relu (k)  q = Conv (r, w4)
    }""",
    w=weight(8, 3, 3, 3), places=np.array([[0, 2], [0, 5]]), updates=np.zeros((2, 6, 6), np.float32),
    w2=weight(4, 8, 3, 3), w3=weight(8, 3, 3, 3), w4=weight(4, 8, 1, 1),
)  # fmt: skip


def test_updates_that_scatter_writes_are_no_channels() -> None:
    assert not removed(SCATTERED)[1], "an update of 0 overwrites what was there"
    dead = changed(SCATTERED, w3=rows(array(SCATTERED, "w3"), at1=0, at6=0))
    left, found = removed(dead)
    assert total(found) == (2, 0, 0)
    assert widths(left, "w3", "updates") == [(6, 3, 3, 3), (2, 6, 6)]


def test_channels_that_no_tuple_of_a_scatter_reaches_go() -> None:
    model = built(
        """g (float[5,4] x) => (float[5,3] y) {
            a = MatMul (x, w)  u = Slice (a, zero, two)  m = ScatterND (a, places, u)  y = MatMul (m, w2)
        }""",
        w=rows(weight(8, 4), at3=0).T, places=np.array([[4], [1]]), zero=np.array([0]), two=np.array([2]),
        w2=rows(weight(8, 3), at6=0),
    )  # fmt: skip
    left, found = removed(model)
    assert total(found)[0] == 1, "nobody reads the last but one"
    assert widths(left, "w", "w2") == [(4, 7), (7, 3)]


def test_what_is_found_wrong_is_left_out_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = exact.find_consumers

    def mistaken(*arguments: object) -> Iterator[exact.Consumer]:
        for end in honest(*arguments):  # type: ignore[arg-type]
            wrong = end.read is not None and end.read.weight.name == "w2"
            yield dataclasses.replace(end, inert=np.ones_like(end.inert)) if wrong else end

    monkeypatch.setattr(exact, "find_consumers", mistaken)
    w1, w2 = weight(4, 8), weight(6, 5)
    model = built(
        """g (float[N,4] x, float[N,4] z) => (float[N,3] y, float[N,5] q) {
            a = MatMul (x, w1) r = Relu (a) y = MatMul (r, v1)   b = MatMul (z, wb) s = Tanh (b) q = MatMul (s, w2)
        }""",
        w1=rows(w1.T, at2=0, at5=0).T, v1=weight(8, 3), wb=weight(4, 6), w2=w2,
    )  # fmt: skip
    result = onnxslim.optimize(model, "prune:exact=true", measure=False)
    record = result.report.passes[-1]
    assert record.kept
    assert widths(result.model, "w1", "v1", "wb", "w2") == [(4, 6), (6, 3), (4, 6), (6, 5)]
    out = [note for note in record.changes if note.action == "left out"]
    assert [note.subject for note in out] == ["removing channels of wb at what is dead or constant"]
    assert "outputs changed" in out[0].reason


def test_exact_pruning_runs_without_a_sample() -> None:
    dead = changed(CHAIN, w1=rows(array(CHAIN, "w1").T, at4=0).T, b1=rows(array(CHAIN, "b1"), at4=0))
    result = onnxslim.optimize(dead, "prune:exact=true", check=False)
    record = result.report.passes[-1]
    assert (record.kept, record.reason) == (True, "outputs not compared: asked not to")
    assert widths(result.model, "w1", "b1") == [(4, 11), (11,)]
    assert record.layers
