"""The pass: what it cuts, what it leaves alone and says so, and what recovery gives back."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_models import CHANNEL_MODELS, built, weight
from onnxslim.passes.prune import Prune
from onnxslim.passes.prune.criterion import Criterion
from onnxslim.passes.prune.cutting import add_to_bias
from onnxslim.passes.simplify import Simplify
from story import make_context
from zoo import zoo_file

import onnxslim
from onnxslim.analysis.contraction import contractions
from onnxslim.analysis.cost import measure_cost
from onnxslim.analysis.coupling import couple
from onnxslim.analysis.shared_vectors import retie_vectors, untie_vectors
from onnxslim.data import Samples, open_samples, synthetic_samples
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.fit.refit import FEWEST, SAMPLES, enough, fits
from onnxslim.model import open_model
from onnxslim.model.edit import Editor
from onnxslim.pipeline.interface import Change, Context
from onnxslim.runtime.session import Session


def net(*channels: int, size: int = 8) -> ir.Model:
    """Return convolutions of 3x3 with rectifiers between them, and a classifier at the end."""
    steps, weights, before = [], {}, "x"
    for at, (one, other) in enumerate(itertools.pairwise(channels)):
        steps.append(f"c{at} = Conv <pads=[1,1,1,1]> ({before}, w{at}, b{at}) r{at} = Relu (c{at})")
        weights |= {f"w{at}": weight(other, one, 3, 3) / np.float32(np.sqrt(one)), f"b{at}": weight(other)}
        before = f"r{at}"
    steps.append(f"p = GlobalAveragePool ({before}) f = Flatten (p) y = Gemm <transB=1> (f, w, b)")
    weights |= {"w": weight(10, channels[-1]), "b": weight(10)}
    return built(f"g (float[N,{channels[0]},{size},{size}] x) => (float[N,10] y) {{ {' '.join(steps)} }}", **weights)


def context(model: ir.Model, samples: Samples | None = None, seed: int = 0) -> Context:
    if samples is None:
        images = np.random.default_rng(5).normal(size=(64, 3, 8, 8)).astype(np.float32)
        samples = open_samples({"x": images}, Session.of(model).inputs)
    return make_context(model, samples, seed=seed)


def pruned(model: ir.Model, step: Prune, samples: Samples | None = None) -> tuple[ir.Model, Change]:
    model = model.clone()
    change = step.run(model, context(model, samples))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model, change


def lost(model: ir.Model, other: ir.Model) -> float:
    """Return how much of the energy of the outputs of `model` those of `other` miss, on images it was not fitted to."""
    images = np.random.default_rng(9).normal(size=(64, 3, 8, 8)).astype(np.float32)
    one, two = (Session.of(each).run({"x": images})["y"] for each in (model, other))
    return float(((one - two) ** 2).sum() / ((one - one.mean(0)) ** 2).sum())


@pytest.mark.parametrize("criterion", list(Criterion))
def test_as_many_macs_go_as_were_asked_for(criterion: Criterion) -> None:
    model = net(3, 32, 48, 32)
    left, change = pruned(model, Prune(ratio=0.4, criterion=criterion, refit=False))
    assert change.modified
    assert 0.3 < 1 - measure_cost(left).macs / measure_cost(model).macs < 0.45
    assert any("channels" in note.action and "->" in note.action for note in change.notes)
    assert any(note.action == "left alone" and "graph output" in note.reason for note in change.notes)
    assert all(len(note.reason) for note in change.notes if note.action == "left alone")


def test_the_same_seed_gives_the_same_model() -> None:
    model = net(3, 32, 32)
    one, two = (pruned(model, Prune(criterion=Criterion.RANDOM))[0] for _ in range(2))
    assert ir.to_proto(one).SerializeToString() == ir.to_proto(two).SerializeToString()


def test_recovery_gives_back_most_of_what_was_lost() -> None:
    model = net(3, 32, 32, 32)
    raw = lost(model, pruned(model, Prune(compensate=False, refit=False))[0])
    mean = lost(model, pruned(model, Prune(refit=False))[0])
    fitted = lost(model, pruned(model, Prune())[0])
    assert mean < raw
    assert fitted < raw / 2


def test_a_constant_channel_goes_without_a_trace() -> None:
    """What a bias alone makes is moved into the biases that follow: exact where no padding is in the way."""
    model = built(
        """g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
            a = Conv (x, w1, b1) r = Relu (a) d = Conv <group=16> (r, wd, bd) e = Relu (d) y = Conv (e, w2)
        }""",
        w1=weight(16, 3, 1, 1), b1=np.abs(weight(16)), wd=np.abs(weight(16, 1, 1, 1)), bd=weight(16),
        w2=weight(4, 16, 3, 3),
    )  # fmt: skip
    constant = model.graph.initializers["w1"].const_value.numpy().copy()
    constant[:8] = 0
    model.graph.initializers["w1"].const_value = ir.tensor(constant, name="w1")
    left, change = pruned(model, Prune(ratio=0.5, criterion=Criterion.ACTIVATION, refit=False))
    assert change.modified
    assert left.graph.initializers["w1"].shape == [8, 3, 1, 1]
    images = np.random.default_rng(9).normal(size=(2, 3, 8, 8)).astype(np.float32)
    one, two = (Session.of(each).run({"x": images})["y"] for each in (model, left))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_channel_that_others_make_up_for_is_fitted_away() -> None:
    model = net(3, 32, 16)
    for name in ("w0", "b0"):
        array = model.graph.initializers[name].const_value.numpy().copy()
        array[16:] = array[:16]  # the second half repeats the first
        model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    readers = model.graph.initializers["w1"].const_value.numpy().copy()
    readers[:, :16] *= 3  # and matters less
    model.graph.initializers["w1"].const_value = ir.tensor(readers, name="w1")
    raw, _ = pruned(model, Prune(ratio=0.3, include=("w0",), compensate=False, refit=False))
    left, change = pruned(model, Prune(ratio=0.3, include=("w0",)))
    assert change.modified
    assert lost(model, left) < lost(model, raw) / 30  # the ridge holds back a little


def test_synthetic_samples_teach_nothing() -> None:
    model = net(3, 32, 32)
    samples = synthetic_samples(model, 4)
    assert samples.synthetic
    one, change = pruned(model, Prune(), samples)
    two, _ = pruned(model, Prune(compensate=False, refit=False), samples)
    assert ir.to_proto(one).SerializeToString() == ir.to_proto(two).SerializeToString()
    assert change.modified


def test_groups_can_be_chosen_by_name() -> None:
    model = net(3, 32, 32, 32)
    included, _ = pruned(model, Prune(include=("w1",), refit=False, ratio=0.2))
    assert [included.graph.initializers[f"w{at}"].shape[0] == 32 for at in range(3)] != [True] * 3
    assert included.graph.initializers["w2"].shape[0] == 32  # reads w1, and is no part of its output
    excluded, change = pruned(model, Prune(exclude=("w*",), refit=False))
    assert not change.modified
    assert {note.reason for note in change.notes if note.subject.startswith("w0")} >= {"in exclude"}
    other, _ = pruned(model, Prune(include=("nothing",), refit=False))
    assert measure_cost(other).macs == measure_cost(excluded).macs == measure_cost(model).macs


def test_small_groups_are_cut_in_smaller_steps() -> None:
    left, change = pruned(net(3, 8, 8), Prune())
    widths = [left.graph.initializers[f"w{at}"].shape[0] for at in range(2)]
    assert change.modified
    assert min(widths) < 8
    assert all(width % 2 == 0 for width in widths)
    assert any("steps of 2: align=8" in note.reason for note in change.notes)
    _, change = pruned(net(3, 3, 3), Prune())
    assert not change.modified
    assert any("too few to spare any" in note.reason for note in change.notes)


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"ratio": 1.5}, {"most": 1.0}, {"align": 0}])
def test_options_out_of_range(options):
    with pytest.raises(BadOptionValue, match=next(iter(options))):
        Prune(**options)


@pytest.mark.parametrize("name", [name for name in CHANNEL_MODELS if name != "tied"])
def test_all_kinds_of_models_run_afterwards(name: str) -> None:
    model = CHANNEL_MODELS[name]
    left, change = pruned(model, Prune(align=1, ratio=0.2), synthetic_samples(model, 2))
    assert change.modified
    feeds = {
        value.name: np.zeros([size if isinstance(size, int) else 2 for size in value.shape], np.float32)
        for value in left.graph.inputs
    }
    one, two = (Session.of(each).run(feeds) for each in (left, model))
    assert {key: array.shape for key, array in one.items()} == {key: array.shape for key, array in two.items()}


def test_tied_weights_stay_tied_and_shared_vectors_do_not() -> None:
    model = built(
        """g (float[N,4] x) => (float[N,4] y) {
            a = MatMul (x, w1) b = Add (a, v) c = MatMul (b, w2) d = Add (c, v) e = MatMul (d, w3) y = Add (e, k)
        }""",
        w1=weight(4, 16), v=weight(16), w2=weight(16, 16), w3=weight(16, 4), k=weight(4),
    )  # fmt: skip
    apart = untie_vectors(model)
    assert {name: len(held) for name, held in apart.items()} == {"v": 2}
    retie_vectors(model, apart)
    assert set(model.graph.initializers) == {"w1", "v", "w2", "w3", "k"}
    left, change = pruned(model, Prune(ratio=0.3, exclude=("w3",)), synthetic_samples(model, 2))
    assert change.modified
    shapes = [value.shape[0] for name, value in left.graph.initializers.items() if name.startswith("v")]
    assert sorted(shapes) == [12, 16]


def test_only_what_can_be_fitted_is() -> None:
    model = built(
        """g (float[N,4,8,8] x) => (float y) {
            a = Conv (x, w1) b = Relu (a) c = Conv <group=2> (b, w2) d = ConvTranspose (c, w3)
            e = Conv <auto_pad="SAME_UPPER"> (d, w4) f = Conv (e, w5, b5) h = Conv (f, w5, b5) i = Conv (h, w6)
            j = Reshape (i, s) k = MatMul (j, w7) y = Gemm (k, w8, b8)
        }""",
        w1=weight(4, 4, 1, 1), w2=weight(4, 2, 1, 1), w3=weight(4, 4, 1, 1), w4=weight(4, 4, 1, 1),
        w5=weight(4, 4, 1, 1), b5=weight(4), w6=weight(4, 4, 1, 1),
        s=np.array([-1, 4]), w7=weight(4, 4), w8=weight(4, 2), b8=weight(1, 2),
    )  # fmt: skip
    # Not: an input that is given, a transposed convolution, tied weights, a Gemm whose bias is a matrix of one row is.
    fitted = [each.weight.name for each in contractions(model.graph) if fits(each)]
    assert fitted == ["w2", "w4", "w6", "w7", "w8"]


def test_biases_that_are_not_ours_are_left_alone() -> None:
    model = built(
        "g (float[N,4] x, float[2] z) => (float y) { a = Gemm (x, w, z) b = MatMul (a, v) y = Gemm (b, u, k) }",
        w=weight(4, 2), v=weight(2, 3), u=weight(3, 2), k=weight(1, 2),
    )  # fmt: skip
    first, second, third = contractions(model.graph)
    coupling = couple(model)
    none = np.zeros(coupling.labels.count, np.bool_)
    assert not add_to_bias(Editor(model), coupling, first, np.ones(2), none)
    assert not add_to_bias(Editor(model), coupling, second, np.ones(3), none)
    before = model.graph.initializers["k"].const_value.numpy()
    assert add_to_bias(Editor(model), coupling, third, np.ones(2), none)
    np.testing.assert_allclose(model.graph.initializers["k"].const_value.numpy(), before + 1)


def test_fitting_takes_as_many_samples_as_time_allows() -> None:
    assert enough(10**6, 1_000_000) == SAMPLES
    assert FEWEST <= enough(1000, 30_000_000_000) < SAMPLES
    assert FEWEST <= enough(1000, 1, 20_000_000) < SAMPLES
    assert enough(1000, 10**12) == 0
    assert enough(FEWEST - 1, 1) == 0


@pytest.mark.zoo
def test_the_small_fashion_net_keeps_its_answers() -> None:
    model = open_model(zoo_file("fashion", "resnet8.onnx"))
    generator = np.random.default_rng(0)
    images = generator.normal(size=(96, 1, 28, 28)).astype(np.float32)
    samples = open_samples({"image": images[:64]}, Session.of(model).inputs)
    setting = context(model, samples)
    Simplify().run(model, setting)
    before = Session.of(model).run({"image": images[64:]})["logits"]
    macs = measure_cost(model).macs
    Prune(criterion=Criterion.ACTIVATION).run(model, setting)
    after = Session.of(model).run({"image": images[64:]})["logits"]
    assert 0.25 < 1 - measure_cost(model).macs / macs < 0.35
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.6


def test_a_model_in_memory_stays_as_it_was_when_the_result_is_written() -> None:
    """Vectors that two nodes share are copied to be cut apart; the copies must not rename the tensor of the caller."""
    text = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1, b) r = Relu (a) c = Conv <pads=[1,1,1,1]> (r, w2, b) s = Relu (c)
        y = Conv (s, w3)
    }"""
    weights = {"w1": weight(16, 3, 3, 3), "b": np.arange(16.0, dtype=np.float32), "w2": weight(16, 16, 3, 3)}
    proto = ir.to_proto(built(text, **weights, w3=weight(4, 16, 1, 1)))
    as_it_was = proto.SerializeToString(deterministic=True)
    result = onnxslim.optimize(proto, "prune:ratio=0.3:exclude=w3", measure=False)
    assert {"b", "b_reader_1"} <= {each.name for each in ir.to_proto(result.model).graph.initializer}
    assert proto.SerializeToString(deterministic=True) == as_it_was


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e20])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"refit": False},
        {"criterion": Criterion.L1, "sensitivity": False, "compensate": False},
    ],
)
def test_a_sample_that_is_not_finite_is_refused(number: float, options: dict[str, object]) -> None:
    """One NaN among the samples made every weight NaN that was fitted to them, and the result was kept."""
    model = net(3, 16, 16)
    images = np.random.default_rng(5).normal(size=(64, 3, 8, 8)).astype(np.float32)
    images[7, 1, 2, 3] = number
    samples = open_samples({"x": images}, Session.of(model).inputs)
    with pytest.raises(DataError, match="NaN, infinite or beyond"):
        pruned(model, Prune(**options), samples)


def test_a_share_that_is_missed_says_why() -> None:
    """Two reasons: the next block would be too much, or all that may go has gone."""

    def said(step: Prune) -> str:
        model = net(3, 32, 32)
        (note, *_) = pruned(model, step, synthetic_samples(model, 2))[1].notes
        return note.reason

    assert said(Prune(ratio=0.5, align=1)) == ""
    coarse = "the next block of channels would take more than {}: a smaller align makes smaller ones"
    assert said(Prune(ratio=0.3)) == coarse.format("ratio=0.3")
    assert said(Prune(params=0.5, per_layer=True)) == coarse.format("params=0.5")
    kept = "more is not to be had: most=0.8, minimum=16 and what was left alone keep the rest"
    assert said(Prune(ratio=0.9, minimum=16)) == kept
    assert said(Prune(ratio=0.9, minimum=16, per_layer=True)) == kept


def test_groups_are_named_by_the_nodes_that_read_their_weights_too() -> None:
    model = net(3, 16, 16)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    samples = synthetic_samples(model, 2)
    left, _ = pruned(model, Prune(ratio=0.3, include=("node_c0",)), samples)
    shapes = {name: value.shape[0] for name, value in left.graph.initializers.items()}
    assert shapes["w0"] < 16
    assert shapes["w1"] == shapes["b1"] == 16
    assert not pruned(model, Prune(ratio=0.2, exclude=("node_*",)), samples)[1].modified


FOLDED = built(
    """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
        a = Conv <pads=[1,1,1,1]> (x, first) b = BatchNormalization (a, s, o, m, v) c = Relu (b)
        d = Conv <pads=[1,1,1,1]> (c, second) e = BatchNormalization (d, s2, o2, m2, v2) f = Relu (e)
        y = Conv (f, third)
    }""",
    first=weight(16, 3, 3, 3), s=weight(16), o=weight(16), m=weight(16), v=weight(16) ** 2 + 1,
    second=weight(16, 16, 3, 3), s2=weight(16), o2=weight(16), m2=weight(16), v2=weight(16) ** 2 + 1,
    third=weight(4, 16, 1, 1),
)  # fmt: skip


@pytest.mark.parametrize("name", ["first", "s", "conv_a", "fir*"])
def test_names_are_those_of_the_file_although_simplify_renames_weights(name: str) -> None:
    """The convolution takes the BatchNormalization in: its weight, its node and its bias are called otherwise then."""
    model = FOLDED.clone()
    for node in model.graph:
        node.name = f"{node.op_type.lower()}_{node.outputs[0].name}"
    result = onnxslim.optimize(model, f"prune:ratio=0.2:exclude={name}+nowhere", measure=False)
    held = [value.const_value.shape for value in result.model.graph.initializers.values()]
    widths = sorted(tuple(shape.numpy()) for shape in held if len(shape) == 4)
    assert widths == [(4, 12, 1, 1), (12, 16, 3, 3), (16, 3, 3, 3)]
    notes = {(note.subject, note.action) for note in result.report.passes[-1].changes}
    assert ("exclude", "'nowhere' matches nothing") in notes
    assert ("exclude", f"{name!r} matches nothing") not in notes
