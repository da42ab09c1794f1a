"""What is evaluated is bounded: in bytes, in letters, in multiplications; what is not known is looked at first."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_models import from_text

from onnxslim.analysis import evaluate as evaluating
from onnxslim.analysis import fold
from onnxslim.analysis.evaluation_limits import MOST_MACS, known_bytes, known_macs, most_bytes
from onnxslim.analysis.fold import fold_constants
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.model import canonicalize

HEAD = '<ir_version: 9, opset_import: ["": 20]>'


def folded(text: str, **initializers: np.ndarray) -> ir.Model:
    model = from_text(f"{HEAD} {text}", **initializers)
    canonicalize(model)
    infer_shapes(model)
    fold_constants(model)
    return model


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_the_sum_of_a_part_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """g (float[N] x) => (float[N] y) {
        a = Expand (w, r) b = Expand (w, r) c = Sum (a, b) s = ReduceSum <keepdims = 0> (c) y = Mul (x, s) }"""
    constants = {"w": np.ones(1, np.float32), "r": np.array([1000, 1000])}
    assert ops(folded(text, **constants)) == ["Mul"]
    monkeypatch.setattr(fold, "PART_BYTES", 10_000_000)  # each of the three fits, all of them do not
    assert "Sum" in ops(folded(text, **constants))


def test_strings_double_up_to_the_budget() -> None:
    doublings = " ".join(f"s{i + 1} = StringConcat (s{i}, s{i})" for i in range(40))
    text = (
        'g (string[N] x) => (string[N] y) {{ s0 = Constant <value_strings = ["hi"]> () {} y = StringConcat (x, {}) }}'
    )
    model = folded(text.format(doublings, "s40"))
    assert len(ir.to_proto(model).SerializeToString()) < 4 << 20
    assert ops(folded(text.format("s1 = StringConcat (s0, s0)", "s1"))) == ["StringConcat"]


def test_shapes_that_are_computed_are_looked_at_before_they_are_used() -> None:
    text = """g (float[N] x) => (float[N] y) {
        m = Mul (r, r) n = NonZero (m) k = Gather (m, n) q = Squeeze (k) e = Expand (w, q)
        s = ReduceSum <keepdims = 0> (e) y = Mul (x, s) }"""
    small = folded(text, w=np.ones(1, np.float32), r=np.array([3, 3, 0]))
    assert ops(small) == ["Mul"]
    assert "Expand" in ops(folded(text, w=np.ones(1, np.float32), r=np.array([1 << 20, 1 << 20, 0])))


def test_long_products_are_not_computed() -> None:
    size = math.ceil(MOST_MACS ** (1 / 3)) + 1
    text = """g (float[N] x) => (float[N] y) { a = Expand (w, r) b = MatMul (a, a)
        s = ReduceSum <keepdims = 0> (b) y = Mul (x, s) }"""
    model = folded(text, w=np.ones(1, np.float32), r=np.array([size, size]))
    assert "MatMul" in ops(model)
    product = next(node for node in model.graph if node.op_type == "MatMul")
    assert known_macs(product) == pytest.approx(size**3, rel=1e-6)
    assert known_bytes([product]) == 4 * size * size


OPS = ("ConstantOfShape", "Expand", "Tile", "NonZero", "Range", "OneHot", "Pad", "Add", "StringConcat")
SHAPES = st.lists(st.integers(0, 5), max_size=3)


@settings(deadline=None)  # the first example reads the table of ops
@given(
    SHAPES,
    st.lists(st.integers(0, 4), min_size=3, max_size=3),
    st.sampled_from(OPS),
)
def test_nothing_is_larger_than_was_said(shape: list[int], numbers: list[int], op_type: str) -> None:
    array, count = np.ones(shape, np.float32), np.array(numbers)
    inputs = {
        "ConstantOfShape": [count],
        "Expand": [array, count],
        "Tile": [array, np.resize(count, len(shape))],
        "NonZero": [array],
        "Range": [np.array(0), np.array(numbers[0]), np.array(1)],
        "OneHot": [np.abs(array).astype(np.int64), count[:1], np.array([0.0, 1.0])],
        "Pad": [array, np.resize(count, 2 * len(shape))],
        "Add": [array, count.astype(np.float32)],
        "StringConcat": [np.full(shape, "ab", object), np.array(["c" * number for number in numbers], object)],
    }[op_type]
    node = ir.Node("", op_type, [ir.Value(name=str(index)) for index in range(len(inputs))])
    proto = ir.to_proto(node)
    proto.output[:] = ["out"]
    results = evaluating.evaluate([proto], {str(i): each for i, each in enumerate(inputs)}, ["out"], {"": 20})
    if results is not None:
        (made,) = results
        letters = sum(len(text) for text in made.reshape(-1).tolist()) if made.dtype.kind in "OSU" else made.nbytes
        assert letters <= most_bytes(node, inputs)


@pytest.mark.parametrize("axis", [1, 2], ids=["values", "program"])
def test_the_reference_is_not_asked_where_onnx_runtime_refuses(monkeypatch: pytest.MonkeyPatch, axis: int) -> None:
    monkeypatch.setattr(evaluating, "_refer", lambda *_: pytest.fail("it may take values that are refused, or hang"))
    text = f"""g (float[N] x) => (float[N] y) {{
        k = GatherElements <axis = {axis}> (w, i) s = ReduceSum <keepdims = 0> (k) y = Mul (x, s) }}"""
    model = folded(text, w=np.ones((3, 5), np.float32), i=np.full((3, 1), 1 << 40))
    assert "GatherElements" in ops(model)
