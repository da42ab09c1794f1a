"""Names and patterns of names choose what passes work on, in every pass alike, whatever was fused before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import built, weight
from sample_models import from_text

import onnxslim
from onnxslim.analysis.original_names import OriginalNames
from onnxslim.model.edit import note_same
from onnxslim.pipeline.interface import NoteCode, remark
from onnxslim.pipeline.reasons import Reason
from onnxslim.pipeline.selection import EVERYTHING, Selection, matches

HEADER = '<ir_version: 9, opset_import: ["" : 17]> '
LAYERS = """g (float[2,16,6,6] x) => (float[2,8,6,6] y) {
    [conv1] a = Conv <pads=[1,1,1,1]> (x, first) [bn1] b = BatchNormalization (a, s1, o1, m1, v1) c = Relu (b)
    [conv2] d = Conv <pads=[1,1,1,1]> (c, second) [bn2] e = BatchNormalization (d, s2, o2, m2, v2) f = Relu (e)
    [conv3] y = Conv (f, third)
}"""
TWICE = """g (float[2,16,6,6] x) => (float[2,8,6,6] y) {
    [conv1] a = Conv <pads=[1,1,1,1]> (x, first) [conv1b] ab = Conv <pads=[1,1,1,1]> (x, firstb) s = Add (a, ab)
    c = Relu (s) [conv2] d = Conv <pads=[1,1,1,1]> (c, second) f = Relu (d) [conv3] y = Conv (f, third)
}"""
FIRST, SECOND = weight(32, 16, 3, 3), weight(32, 32, 3, 3)
VECTORS = {f"{name}{at}": weight(32) ** 2 + 1 for name in "somv" for at in (1, 2)}
MODELS = {
    "fused": built(LAYERS, first=FIRST, second=SECOND, third=weight(8, 32, 1, 1), **VECTORS),
    "merged": built(TWICE, first=FIRST, firstb=FIRST, second=SECOND, third=weight(8, 32, 1, 1)),
}
PASSES = (
    "prune:ratio=0.3",
    "sparsify:smallest=1",
    "lowrank:energy=0.3:pays=size:align=1",
    "quant",
)


def untouched(spec: str, model: ir.Model) -> tuple[set[tuple[int, ...]], set[tuple[str, str]]]:
    """Return the shapes of the kernels that are as they were, and the notes of the pass."""
    result = onnxslim.optimize(model, spec, measure=False)
    arrays = [value.const_value.numpy() for value in result.model.graph.initializers.values() if value.const_value]
    notes = {(note.subject, note.action) for note in result.report.passes[-1].changes}
    return {array.shape for array in arrays if array.dtype == np.float32 and array.ndim == 4 and array.all()}, notes


@pytest.mark.parametrize("spec", PASSES)
@pytest.mark.parametrize(
    ("of", "name"),
    [
        *(("fused", name) for name in ("conv1", "first", "bn1", "s1", "fir*")),
        *(("merged", name) for name in ("conv1", "conv1b", "first", "firstb")),
    ],
)
def test_what_is_excluded_stays_by_any_name_that_it_has_in_the_file(spec: str, of: str, name: str) -> None:
    """The convolution takes the BatchNormalization in, and of two equal ones one stays, under one of the names."""
    shapes, notes = untouched(f"{spec}:exclude={name}", MODELS[of])
    assert FIRST.shape in shapes
    assert SECOND.shape not in shapes
    assert not any("matches nothing" in action for _, action in notes)


@pytest.mark.parametrize("spec", PASSES)
@pytest.mark.parametrize("name", ["conv2", "second", "bn2", "o2"])
def test_only_what_is_included_is_touched(spec: str, name: str) -> None:
    shapes, _ = untouched(f"{spec}:include={name}", MODELS["fused"])
    assert SECOND.shape not in shapes
    assert FIRST.shape in shapes or spec.startswith("prune"), "its outputs are what the second reads"


@pytest.mark.parametrize("spec", PASSES)
def test_op_types_are_names_too(spec: str) -> None:
    shapes, _ = untouched(f"{spec}:exclude=Conv", MODELS["fused"])
    assert {FIRST.shape, SECOND.shape} <= shapes


@pytest.mark.parametrize("spec", [*PASSES, "prune:exact=true"])
@pytest.mark.parametrize("rest", ["", "+*"])
def test_a_pattern_that_matches_nothing_is_told_and_one_of_what_the_pass_never_touches_is_not(
    spec: str, rest: str
) -> None:
    """The same in every pass, whether there was anything else to do or not."""
    model = from_text(
        HEADER + "g (float[2,16] x, float[16,16] w) => (float[2,16] y) { [act] a = Relu (x) y = MatMul (a, w) }",
        w=weight(16, 16),
    )
    _, notes = untouched(f"{spec}:exclude=nowhere+act{rest}", model)
    assert ("exclude", "'nowhere' matches nothing") in notes
    assert ("exclude", "'act' matches nothing") not in notes


def test_include_comes_first_and_exclude_takes_away() -> None:
    model = from_text(HEADER + "g (float[2] x, float[2] w) => (float[2] y) { [conv1] y = Add (x, w) }", w=np.ones(2))
    (node,) = model.graph
    for include, exclude, reason in (
        ((), (), None),
        (("conv*",), (), None),
        (("CONV*",), (), Reason(NoteCode.NOT_INCLUDED)),
        (("fc",), (), Reason(NoteCode.NOT_INCLUDED)),
        ((), ("conv?",), Reason(NoteCode.EXCLUDED)),
        (("conv1",), ("w",), Reason(NoteCode.EXCLUDED)),
        (("fc",), ("conv1",), Reason(NoteCode.NOT_INCLUDED)),
    ):
        assert Selection(include, exclude, model, model).against(node) == reason
    assert EVERYTHING.against(node) is None
    assert not EVERYTHING.unmatched()


def test_nothing_matches_no_pattern() -> None:
    assert not matches(("a",), ())
    assert not matches((), ("*",))


def test_patterns_without_a_match_are_told() -> None:
    model = from_text(HEADER + "g (float[2] a) => (float[2] b) { [named] b = Relu (a) }")
    why = "no node, weight or op type of the model is called so"
    assert Selection(("named", "b", "Re*"), ("c*",), model, model).unmatched() == [
        remark("include", "'b' matches nothing", why, "unmatched"),
        remark("exclude", "'c*' matches nothing", why, "unmatched"),
    ]


def test_nodes_that_a_pass_makes_belong_to_what_they_feed() -> None:
    original = from_text(
        HEADER + "g (float[2,4] x, float[4,4] w) => (float[2,4] y) { a = Relu (x) [product] y = MatMul (a, w) }",
        w=weight(4, 4),
    )
    model = from_text(
        HEADER + "g (float[2,4] x, float[4,1] u, float[1,4] v) => (float[2,4] y)"
        "{ a = Relu (x) [new] f = MatMul (a, u) y = MatMul (f, v) }",
        u=weight(4, 1), v=weight(1, 4),
    )  # fmt: skip
    for node in list(model.graph)[1:]:
        origin = OriginalNames(model, original).of_node(node)
        assert (origin.nodes, origin.matrices) == ({"product"}, {"w"})


def test_a_value_in_another_layout_goes_by_the_name_that_it_had() -> None:
    original = from_text(
        HEADER + "g (float[2,4] x) => (float[4,2] y) { t = Transpose (x) [one] a = Relu (t) [two] y = Neg (a) }"
    )
    model = from_text(
        HEADER + "g (float[2,4] x) => (float[4,2] y) { a_turned = Relu (x) b = Neg (a_turned) y = Transpose (b) }"
    )
    note_same(model.graph, [("a_turned", "a")])
    note_same(model.graph, [("b", "y")])
    first, second, _ = model.graph
    names = OriginalNames(model, original)
    assert "one" in names.of_node(first).nodes
    assert names.of_node(second).nodes == {"two"}
