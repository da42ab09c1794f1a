"""Branches of Ifs: each is quantized by what its own samples give it, and put back where it was."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.branches import Branches, branches_of
from onnxslim.passes.quant.codes import QuantCode
from onnxslim.passes.quant.saturation import Saturation
from onnxslim.passes.quant.table import load_table
from sample_models import from_text
from story import AVX2, make_context

from onnxslim.analysis.float_form import float_form
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import Subset
from onnxslim.errors import RunError
from onnxslim.model import canonicalize, open_model, save_model
from onnxslim.model.edit import names_in
from onnxslim.model.nesting import graphs_within, nested_graphs
from onnxslim.pipeline.interface import Change, Context, NoteCode
from onnxslim.runtime.session import Session

HEAD = '<ir_version: 9, opset_import: ["" : 17]> g (float[1,4,8,8] x) => (float[1,4,8,8] y)'
CONDITION = "m = ReduceMean <keepdims = 0> (x) zero = Constant <value = float {0}> () c = Greater (m, zero)"
THEN = """then_branch = t () => (float[1,4,8,8] tz) {
    [first] ta = Conv <pads = [1, 1, 1, 1]> (x, u)  tr = Relu (ta)  [second] tz = Conv (tr, v) }"""
ELSE = """else_branch = e () => (float[1,4,8,8] ez) {
    [third] ea = Conv <pads = [1, 1, 1, 1]> (x, u)  es = Relu (ea)  [fourth] ez = Conv (es, w) }"""
BOTH = f"{HEAD} {{ {CONDITION} [choice] y = If (c) < {THEN}, {ELSE} > }}"
SIZES = {"u": (8, 4, 3, 3), "v": (4, 8, 1, 1), "w": (4, 8, 1, 1), "o": (4, 4, 1, 1)}


def net(text: str = BOTH) -> ir.Model:
    """Return a model with those weights of its text that `SIZES` knows."""
    generator = np.random.default_rng(5)
    drawn = {name: generator.normal(size=size).astype(np.float32) for name, size in SIZES.items()}
    return with_weights(text, {name: array for name, array in drawn.items() if f", {name})" in text})


def with_weights(text: str, weights: dict[str, np.ndarray]) -> ir.Model:
    """Return a model whose weights are initializers of its main graph, wherever they are read."""
    declared = ", ".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in weights.items())
    model = from_text(text.replace("] x)", f"] x, {declared})", 1), **weights)
    canonicalize(model)
    return model


def pictures(count: int, *, seed: int = 0, signs: tuple[int, ...] = (1, -1)) -> np.ndarray:
    """Return samples, shape [count, 4, 8, 8], whose means have these signs in turn."""
    drawn = np.random.default_rng(seed).normal(size=(count, 4, 8, 8)).astype(np.float32)
    means = drawn.mean(axis=(1, 2, 3), keepdims=True)
    wanted = np.resize(np.array(signs, np.float32), count)[:, None, None, None]
    return drawn - means + 0.5 * wanted


def quantize(model: ir.Model, samples: np.ndarray, **options) -> Change:
    return Quant(**options).run(model, make_context(model, {"x": samples}, target=AVX2))


def run(model: ir.Model, samples: np.ndarray) -> np.ndarray:
    session = Session.of(model, AVX2)
    return np.concatenate([session.run({"x": sample[None]})["y"] for sample in samples])


def sqnr(reference: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum()))


def ops(graph: ir.Graph) -> Counter[str]:
    return Counter(node.op_type for node in graph)


def inner_graphs(model: ir.Model) -> list[ir.Graph]:
    return [graph for node in model.graph for graph in nested_graphs(node)]


def check_file(model: ir.Model, path) -> ir.Model:
    """Check the file of a model, and that no value has the name of another that it can see; return it as opened."""
    save_model(model, path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return open_model(path)


def names(graphs) -> Counter[str]:
    return Counter(name for name in names_in(graphs) if name)


def graph_named(model: ir.Model, name: str) -> ir.Graph:
    return next(graph for graph in graphs_within(model.graph) if graph.name == name)


def by_subject(change: Change) -> dict[str, str]:
    return {note.subject: note.code for note in change.notes}


def test_both_branches_are_quantized(tmp_path):
    model, unseen = net(), pictures(32, seed=1)
    expected = run(model, unseen)
    change = quantize(model, pictures(64))
    assert change.modified
    assert [ops(graph)["QuantizeLinear"] for graph in inner_graphs(model)] == [3, 3]
    for start in (0, 1):  # those that take one branch, and those that take the other
        assert sqnr(expected[start::2], run(model, unseen)[start::2]) > 30  # 8 bits give two layers some 35 dB
    assert [layer.layer for layer in change.layers] == ["first", "second", "third", "fourth"]
    became = {row.layer: row.became for row in change.sensitivity}
    assert became == dict.fromkeys(("first", "second", "third", "fourth"), "int8")
    opened = check_file(model, tmp_path / "model.onnx")
    np.testing.assert_array_equal(run(opened, unseen), run(model, unseen))
    floats = float_form(model)
    assert floats is not None
    np.testing.assert_array_equal(run(floats, unseen), expected)


def test_each_branch_is_calibrated_on_what_it_is_given():
    """Of two branches that compute the same one sees values a hundred times as large."""
    samples = pictures(64)
    samples[::2] *= 100
    text = BOTH.replace("(es, w)", "(es, v)")
    model = net(text)
    unseen = samples[32:]
    expected = run(model, unseen)
    quantize(model, samples[:32])
    for start in (0, 1):
        assert sqnr(expected[start::2], run(model, unseen)[start::2]) > 30


def test_a_branch_that_no_sample_takes_stays_float():
    model, unseen = net(), pictures(16, seed=1)
    expected = run(model, unseen)
    change = quantize(model, pictures(32, signs=(1,)))
    assert [ops(graph)["QuantizeLinear"] for graph in inner_graphs(model)] == [3, 0]
    left = {note.subject: note for note in change.notes if note.code == QuantCode.NEVER_TAKEN.word}
    assert left.keys() == {"third", "fourth"}
    assert left["third"].reason == "it lies in choice.else_branch, which no calibration sample takes"
    np.testing.assert_array_equal(run(model, unseen)[1::2], expected[1::2])
    assert model.graph.initializers.keys() == {"u", "w", "zero"}


def test_a_weight_of_both_branches_is_stored_where_it_is_read(tmp_path):
    model = net()
    assert {"u", "v", "w"} <= model.graph.initializers.keys()
    quantize(model, pictures(32))
    assert model.graph.initializers.keys() == {"zero"}
    kinds = [{v.dtype for v in graph.initializers.values() if v.shape.rank() == 4} for graph in inner_graphs(model)]
    assert kinds == [{ir.DataType.INT8}] * 2
    assert set(names(graphs_within(model.graph)).values()) == {1}
    check_file(model, tmp_path / "model.onnx")


AROUND = f"""{HEAD} {{ {CONDITION}
    [outer] a = Conv <pads = [1, 1, 1, 1]> (x, u)  r = Relu (a)
    [choice] s = If (c) <
        then_branch = t () => (float[1,4,8,8] tz) {{ [first] tz = Conv (r, v) }},
        else_branch = e () => (float[1,4,8,8] ez) {{ [second] es = Conv (r, w)  ez = Mul (es, m) }}
    >
    [last] y = Conv (s, o) }}"""


def test_the_graph_around_is_quantized_as_well(tmp_path):
    model, unseen = net(AROUND), pictures(32, seed=1)
    expected = run(model, unseen)
    change = quantize(model, pictures(64))
    assert [layer.layer for layer in change.layers] == ["outer", "last", "first", "second"]
    assert [ops(graph)["QuantizeLinear"] for graph in (model.graph, *inner_graphs(model))] == [4, 2, 2]
    assert "Relu" not in ops(model.graph)  # the branches read the levels that it leaves
    assert sqnr(expected, run(model, unseen)) > 28  # two layers more, and two tensors that are rounded twice
    assert set(names(graphs_within(model.graph)).values()) == {1}
    np.testing.assert_array_equal(run(check_file(model, tmp_path / "model.onnx"), unseen), run(model, unseen))


NESTED = f"""{HEAD} {{ {CONDITION}
    [choice] y = If (c) <
        then_branch = t () => (float[1,4,8,8] tz) {{
            [first] ta = Conv <pads = [1, 1, 1, 1]> (x, u)  tr = Relu (ta)
            one = Constant <value = float {{1}}> ()
            d = Greater (m, one)
            [within] tz = If (d) <
                then_branch = tt () => (float[1,4,8,8] ttz) {{ [second] ttz = Conv (tr, v) }},
                else_branch = te () => (float[1,4,8,8] tez) {{ [third] tez = Conv (tr, w) }}
            > }},
        else_branch = e () => (float[1,4,8,8] ez) {{ ez = Tanh (x) }}
    > }}"""


def test_branches_within_branches(tmp_path):
    samples = pictures(96)
    samples[::4] += 1  # every second one of those that take the first branch
    model, unseen = net(NESTED), samples[64:]
    expected = run(model, unseen)
    change = quantize(model, samples[:64])
    inner = [graph_named(model, name) for name in ("t", "tt", "te", "e")]
    assert [ops(graph)["QuantizeLinear"] for graph in inner] == [2, 2, 2, 0]
    assert [layer.layer for layer in change.layers] == ["first", "second", "third"]
    for start in (0, 2):
        assert sqnr(expected[start::4], run(model, unseen)[start::4]) > 28
    np.testing.assert_array_equal(run(model, unseen)[1::2], expected[1::2])
    assert set(names(graphs_within(model.graph)).values()) == {1}
    np.testing.assert_array_equal(run(check_file(model, tmp_path / "model.onnx"), unseen), run(model, unseen))


def test_a_branch_within_that_no_sample_takes_stays_float():
    model = net(NESTED)
    change = quantize(model, pictures(32))  # means of a half
    assert [ops(graph_named(model, name))["QuantizeLinear"] for name in ("t", "tt", "te")] == [2, 0, 2]
    (note,) = [note for note in change.notes if note.code == QuantCode.NEVER_TAKEN.word]
    assert (note.subject, note.reason) == (
        "second",
        "it lies in within.then_branch, which no calibration sample takes",
    )


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"exclude": ("second", "third")}, ["first", "fourth"]),
        ({"include": ("second", "third")}, ["second", "third"]),
        ({"exclude": ("v",)}, ["first", "third", "fourth"]),
        ({"exclude": ("choice",)}, []),
    ],
)
def test_nodes_in_branches_are_selected_by_name(options, layers):
    model = net()
    change = quantize(model, pictures(32), **options)
    assert [layer.layer for layer in change.layers] == layers
    code = NoteCode.EXCLUDED if "exclude" in options else NoteCode.NOT_INCLUDED
    left = {note.subject for note in change.notes if note.code == code.word}
    assert {"first", "second", "third", "fourth"} - left == set(layers)
    assert change.modified == bool(layers)


def test_a_pattern_that_matches_nothing_is_told_once():
    change = quantize(net(), pictures(32), exclude=("nobody",))
    assert [note.subject for note in change.notes if note.code == NoteCode.UNMATCHED.word] == ["exclude"]


def test_notes_on_a_whole_branch_bear_its_name():
    told = by_subject(quantize(net(), pictures(32)))
    assert {"choice.then_branch: Conv", "choice.else_branch: Conv", "main graph"} <= told.keys()
    assert told["main graph"] == QuantCode.NOTHING_QUANTIZABLE.word
    assert "model" not in told
    assert "choice" not in told


def test_an_old_model_is_raised_with_its_branches(tmp_path):
    """Scales for each channel came with opset 13; ReduceMean of 11 has its axes as attributes."""
    text = BOTH.replace('"" : 17', '"" : 11').replace(
        "tr = Relu (ta)", "ts = ReduceMean <axes = [1]> (ta) tr = Sub (ta, ts)"
    )
    model, unseen = net(text), pictures(16, seed=1)
    expected = run(model, unseen)
    change = quantize(model, pictures(32))
    assert change.modified
    assert model.graph.opset_imports[""] == 17
    assert ("model", "opset 17") in {(note.subject, note.action) for note in change.notes}
    assert sqnr(expected, run(model, unseen)) > 25
    check_file(model, tmp_path / "model.onnx")


def gelu(read: str, made: str, name: str) -> str:
    """Return a GELU as opset 17 spells it out."""
    parts = [f"{name}{place}" for place in range(4)]
    return f"""{parts[0]} = Div ({read}, root) {parts[1]} = Erf ({parts[0]}) {parts[2]} = Add ({parts[1]}, one)
        {parts[3]} = Mul ({read}, {parts[2]}) {made} = Mul ({parts[3]}, half)"""


@pytest.mark.parametrize(("exclude", "opset", "count"), [((), 20, 1), (("g1",), 17, 0)])
def test_a_branch_has_the_operator_set_of_the_model(exclude, opset, count):
    """A GELU is worth opset 20, in a branch as well; but not where another one must stay as it is."""
    numbers = " ".join(
        f"{name} = Constant <value = float {{{number}}}> ()"
        for name, number in (("root", 1.4142135), ("one", 1), ("half", 0.5))
    )
    text = BOTH.replace(CONDITION, f"{CONDITION} {numbers} {gelu('x', 'h', 'g')}").replace("(x, u)  es", "(h, u)  es")
    model = net(text.replace("tr = Relu (ta)", gelu("ta", "tr", "b")))
    change = quantize(model, pictures(32), exclude=exclude)
    assert model.graph.opset_imports[""] == opset
    assert ops(graph_named(model, "t"))["Gelu"] == count
    assert [layer.layer for layer in change.layers] == ["first", "second", "third", "fourth"]


def test_a_branch_that_needs_another_operator_set_stays_float():
    model, settings = net(), Quant()._static(Saturation.PAIRS, timed=False)
    infer_shapes(model)
    before = ir.to_proto(model).SerializeToString()

    def raise_it(inner: ir.Model, context: Context) -> Change:
        inner.graph.opset_imports[""] = 21
        return Change(True)

    context = make_context(model, {"x": pictures(8)}, target=AVX2)
    branches = Branches(settings, load_table("cpu"), raise_it, context)
    change = branches.quantize(model, branches_of(model), model.clone())
    assert ir.to_proto(model).SerializeToString() == before
    assert not change.modified
    reason = "it lies in choice.then_branch, which cannot be quantized by itself: the model stays at opset 17"
    assert by_subject(change)["first"] == QuantCode.NO_BRANCH_MODEL.word
    assert reason in {note.reason for note in change.notes}


def test_samples_count_once_though_every_branch_has_some_of_them():
    model = net(NESTED)
    context = make_context(model, {"x": pictures(32)}, target=AVX2)
    Quant(samples=16).run(model, context)
    assert context.subsets == [Subset("quant: calibration", 16, 32)]


def test_another_try_gives_what_the_first_would_have_given():
    """What was observed at full strength serves a milder try, and the branches of that are the same."""
    samples, model = pictures(64), net(AROUND)
    context = make_context(model, {"x": samples}, target=AVX2)
    Quant().run(model.clone(), context)
    again, fresh = model.clone(), model.clone()
    Quant(error=0.3).run(again, context)
    Quant(error=0.3).run(fresh, make_context(model, {"x": samples}, target=AVX2))
    assert ir.to_proto(again).SerializeToString() == ir.to_proto(fresh).SerializeToString()
    whole = model.clone()
    Quant().run(whole, make_context(model, {"x": samples}, target=AVX2))
    assert ir.to_proto(again).SerializeToString() != ir.to_proto(whole).SerializeToString()


LOOP = f"""{HEAD} {{ {CONDITION}
    [choice] y = If (c) <
        then_branch = t () => (float[1,4,8,8] tz) {{
            [first] ta = Conv <pads = [1, 1, 1, 1]> (x, u)  [second] tb = Conv (ta, v)
            turns = Constant <value = int64 {{2}}> ()
            tz = Loop (turns, , tb) <body = b (int64 i, bool go, float[1,4,8,8] h) => (bool on, float[1,4,8,8] k)
                {{ on = Identity (go) [turned] k = Conv (h, o) }}> }},
        else_branch = e () => (float[1,4,8,8] ez) {{ ez = Tanh (x) }}
    > }}"""


def test_a_loop_in_a_branch_stays_float():
    model = net(LOOP)
    change = quantize(model, pictures(32))
    assert [layer.layer for layer in change.layers] == ["first", "second"]
    (note,) = [note for note in change.notes if note.subject == "turned"]
    assert (note.code, note.reason) == ("nested", "it lies in a graph of Loop, whose values are not observed")


SEQUENCE = f"""{HEAD} {{ {CONDITION}
    list = SequenceConstruct (x)  first = Constant <value = int64 {{0}}> ()
    [choice] y = If (c) <
        then_branch = t () => (float[1,4,8,8] tz) {{ tx = SequenceAt (list, first)  [inner] tz = Conv (tx, o) }},
        else_branch = e () => (float[1,4,8,8] ez) {{ [seen] ez = Conv (x, o) }}
    > }}"""


def test_a_branch_that_reads_what_is_no_tensor_stays_float():
    change = quantize(net(SEQUENCE), pictures(32))
    assert [layer.layer for layer in change.layers] == ["seen"]
    assert by_subject(change)["inner"] == QuantCode.NESTED.word


def test_a_branch_whose_model_does_not_run_stays_float():
    def open_session(model: ir.Model) -> Session:
        if {value.name for value in model.graph.outputs} & {"ta", "tr", "tz"}:
            raise RunError("ONNX Runtime says: no")
        return Session.of(model, AVX2)

    model = net()
    change = Quant().run(model, make_context(model, {"x": pictures(32)}, target=AVX2, open_session=open_session))
    left = {note.subject: note for note in change.notes if note.code == QuantCode.NO_BRANCH_MODEL.word}
    assert left.keys() == {"first", "second"}
    reason = "it lies in choice.then_branch, which cannot be quantized by itself: ONNX Runtime says: no"
    assert left["first"].reason == reason
    assert [layer.layer for layer in change.layers] == ["third", "fourth"]


def test_branches_of_a_model_of_fixed_batch():
    """The samples of a batch take one branch together."""
    model = net(BOTH.replace("float[1,", "float[2,"))
    samples = pictures(64, signs=(1, 1, -1, -1))
    change = quantize(model, samples)
    assert [layer.layer for layer in change.layers] == ["first", "second", "third", "fourth"]
    one_sided = quantize(net(BOTH.replace("float[1,", "float[2,")), pictures(32, signs=(1,)))
    assert {"third", "fourth"} == {note.subject for note in one_sided.notes if note.code == QuantCode.NEVER_TAKEN.word}


def test_onnx_runtime_multiplies_integers_in_branches(tmp_path):
    model = net(AROUND)
    quantize(model, pictures(32))
    made = tmp_path / "made.onnx"
    Session.of(model, AVX2, optimized=made)
    kinds = {name: Counter(node.op_type for node in graph_named(open_model(made), name)) for name in ("g", "t", "e")}
    assert [kind["QLinearConv"] for kind in kinds.values()] == [2, 1, 1]
    assert not any(kind["Conv"] for kind in kinds.values())
