"""Tables that are read row by row."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnxslim.passes.lowrank import Lowrank
from onnxslim.passes.lowrank.embedding import basis, count_rows, find_tables, split_table, write_table
from sample_models import from_text
from story import make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import Batch, open_samples
from onnxslim.model.edit import Editor
from onnxslim.pipeline.interface import Context, Goal
from onnxslim.runtime.session import Session

GENERATOR = np.random.default_rng(0)
TEXT = """<ir_version: 10, opset_import: ["" : 17]> g (int64[N,L] ids, float t) => (float[N,L,48] y) {
    a = Gather (t, ids) y = Relu (a)
}"""


def model(table: np.ndarray, text: str = TEXT) -> ir.Model:
    made = from_text(text, t=table)
    infer_shapes(made)
    return made


def low(rank: int, rows: int = 400) -> np.ndarray:
    left, right = GENERATOR.normal(size=(rows, rank)), GENERATOR.normal(size=(rank, 48))
    return (left @ right).astype(np.float32)


def test_a_table_of_full_rank_is_split_exactly() -> None:
    before = model(GENERATOR.normal(size=(400, 48)).astype(np.float32))
    after = before.clone()
    (table,), _ = find_tables(after)
    write_table(Editor(after), table, split_table(table, basis(table, None)[1], 48))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    ids = GENERATOR.integers(0, 400, (2, 5))
    one, two = (Session.of(each).run({"ids": ids})["y"] for each in (before, after))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_rows_that_are_read_count_more() -> None:
    before = model(GENERATOR.normal(size=(400, 48)).astype(np.float32))
    (table,), _ = find_tables(before)
    counts = np.zeros(400)
    counts[:20] = 1
    dense = before.graph.initializers["t"].const_value.numpy()  # type: ignore[union-attr]
    errors = [
        np.square(dense - split_table(table, basis(table, each)[1], 16).dense).sum(axis=1) for each in (None, counts)
    ]
    assert errors[1][:20].sum() < 0.5 * errors[0][:20].sum()
    assert errors[1][20:].sum() < 1.3 * errors[0][20:].sum()


def context(model: ir.Model, goal: Goal) -> Context:
    samples = open_samples({"ids": GENERATOR.integers(0, 400, (32, 6))}, Session.of(model).inputs)
    return make_context(model, samples, goal=goal)


def test_rows_that_are_never_read_keep_what_there_is_room_for() -> None:
    before = model(low(10))
    (table,), _ = find_tables(before)
    counts = np.zeros(400)
    counts[0] = 1000
    dense = before.graph.initializers["t"].const_value.numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(split_table(table, basis(table, counts)[1], 10).dense, dense, atol=1e-3)


def test_rows_are_counted_from_the_end_as_well() -> None:
    before = model(low(10))
    (table,), _ = find_tables(before)
    samples = open_samples({"ids": np.array([[-1, 3], [399, 3]])}, Session.of(before).inputs)
    counts = count_rows(before, [table], samples.batches(2), Session.of)[table.name]
    assert (counts[399], counts[3], counts.sum()) == (2, 2, 4)


def test_the_goal_decides() -> None:
    before = model(low(10))
    kept = Lowrank().run(before.clone(), context(before, Goal.LATENCY))
    assert not kept.modified
    assert any("not faster" in note.reason for note in kept.notes)
    after = before.clone()
    change = Lowrank(align=2).run(after, context(before, Goal.SIZE))
    assert change.modified
    (split,) = change.layers
    assert (split.op, split.quantity, split.before, split.after) == ("Gather", "rank", 48, 10)
    assert (split.macs_before, split.macs_after) == (0, 6 * 10 * 48)
    assert any(note.reason.endswith("of the energy of its rows retained") for note in change.notes)
    assert after.graph.initializers["t_factor_1"].const_value.shape.numpy() == (400, 10)  # type: ignore[union-attr]
    ids = GENERATOR.integers(0, 400, (2, 5))
    one, two = (Session.of(each).run({"ids": ids})["y"] for each in (before, after))
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_an_index_that_has_a_value_of_its_own_is_counted() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (int64[N,L] ids, int64[2] more, float t) => (float[N,L,48] y) {
        a = Gather (t, ids) b = Gather (t, more) c = ReduceSum <keepdims=0> (b) y = Add (a, c) }"""
    before = from_text(text, t=low(10), more=np.array([3, 3]))
    before.graph.inputs.append(before.graph.initializers["more"])
    infer_shapes(before)
    (table,), _ = find_tables(before)
    held = context(before, Goal.SIZE)
    counts = count_rows(before, [table], [Batch(held.samples.first())], Session.of)
    assert counts[table.name].sum() == 6 + 2
    assert Lowrank(align=2).run(before, held).modified


def test_a_table_that_a_product_reads_too_is_left_alone() -> None:
    text = TEXT.replace("y = Relu (a)", "u = Transpose (t) y = Relu (a) z = MatMul (a, u)")
    tables, left = find_tables(model(low(10), text))
    assert not tables
    assert "shared" in left[0].reason
