"""Distillation block by block: each block makes more nearly what the original makes there, or stays as it is."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import error, images, residual_network
from onnxslim.passes.distill import Distill
from onnxslim.passes.distill.blockwise import StudentBlocks
from onnxslim.passes.prune import Prune
from onnxslim.passes.simplify import Simplify
from sample_models import from_text
from story import make_context
from zoo import zoo_file

import onnxslim
from onnxslim.errors import BadOptionValue
from onnxslim.model import open_model
from onnxslim.pipeline.interface import Change, Note, NoteKind, Progress
from onnxslim.train.loop import Keep

FAST = Distill(epochs=10, batch=16, blocks="block")
WEIGHTS = {"s0": {"w0", "b0"}, "s1": {"w1", "b1", "w2", "b2"}, "s2": {"w3", "b3", "w4", "b4"}, "y": {"v", "d"}}
"""What is trained of each block, by its end."""


@functools.cache
def cut(*excluded: str) -> ir.Model:
    """Return the net without most of its inner channels, or with a narrower stream where nothing is excluded."""
    model, context = residual_network(), make_context(residual_network(), images(256))
    Simplify().run(model, context)
    assert Prune(ratio=0.7, most=0.9, align=1, refit=False, exclude=excluded).run(model, context).modified
    return model


def pruned() -> ir.Model:
    return cut("w0").clone()


def distilled(options: Distill, student: ir.Model, teacher: ir.Model | None = None, data: Any = None) -> Change:
    context = make_context(residual_network() if teacher is None else teacher, images(256) if data is None else data)
    return options.run(student, context)


def weights(model: ir.Model) -> dict[str, bytes]:
    return {name: value.const_value.tobytes() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]


def shapes(model: ir.Model) -> list[str]:
    """Return all nodes, and the shapes of all weights."""
    return [*map(str, (value.shape for value in model.graph.initializers.values())), *(n.op_type for n in model.graph)]


def scaled(model: ir.Model, name: str, factor: float) -> ir.Model:
    """Return a copy in which a weight has a factor."""
    copy = model.clone()
    value = copy.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)  # type: ignore[union-attr]
    return copy


def done(notes: tuple[Note, ...]) -> list[str]:
    return [note.subject for note in notes if note.kind is NoteKind.DONE]


@pytest.mark.parametrize(
    ("blocks", "ends"),
    [("block", ["s1", "s2", "y"]), ("layer", ["d1", "d2", "y"]), ("2", ["s1", "s2", "y"])],
)
def test_a_pruned_net_is_nearer_to_its_original(blocks: str, ends: list[str]) -> None:
    student, teacher = pruned(), residual_network()
    before, form = error(student, teacher), shapes(student)
    change = distilled(dataclasses.replace(FAST, blocks=blocks), student)
    assert change.modified
    assert done(change.notes) == ["model", *ends]
    assert "samples that no block has seen" in change.notes[0].action
    assert error(student, teacher) < 0.5 * before
    assert shapes(student) == form


@pytest.mark.parametrize("options", [{}, {"exclude": ("w1", "w2", "b1", "b2")}, {"include": ("w3",)}], ids=str)
def test_blocks_change_where_they_gain_and_nowhere_else(options: dict[str, Any]) -> None:
    student = pruned()
    before = weights(student)
    change = distilled(dataclasses.replace(FAST, **options), student)
    after = weights(student)
    changed = {end for end, names in WEIGHTS.items() if any(before[name] != after[name] for name in names)}
    assert changed == {*done(change.notes)} - {"model"}
    assert changed
    left = {note.subject: note.code for note in change.notes if note.kind is NoteKind.LEFT_ALONE}
    assert changed | left.keys() == WEIGHTS.keys()
    assert left["s0"] == ("not-asked" if "include" in options else "exact")
    assert left.get("s1") == ("not-asked" if options else None)


def test_nothing_is_kept_that_is_not_better() -> None:
    student = pruned()
    before = weights(student)
    change = distilled(dataclasses.replace(FAST, rate=100.0, epochs=2), student)
    assert not change.modified
    assert {note.code for note in change.notes} <= {"exact", "no-better", "diverged"}
    assert weights(student) == before


CHAIN = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,8] x) => (float[N,8] y) {
    a = MatMul (x, w)  y = MatMul (a, v) }"""


def test_blocks_that_are_better_and_serve_no_output_are_not_kept() -> None:
    random = np.random.default_rng(0)
    first, second = (random.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
    teacher = from_text(CHAIN, w=first, v=second)
    student = from_text(CHAIN, w=first * np.float32(1.25), v=second / np.float32(1.2))  # one makes up for the other
    before = weights(student)
    data = {"x": random.standard_normal((256, 8)).astype(np.float32)}
    change = distilled(dataclasses.replace(FAST, rate=0.01, exclude=("v",)), student, teacher, data)
    assert not change.modified
    assert [(note.kind, note.code) for note in change.notes] == [(NoteKind.LEFT_ALONE, "no-better-outputs")]
    assert weights(student) == before


def test_it_repeats_itself() -> None:
    students = [pruned(), pruned()]
    for student in students:
        assert distilled(FAST, student).modified
    assert weights(students[0]) == weights(students[1])


def test_where_no_block_can_end_the_whole_is_trained() -> None:
    student, whole = cut().clone(), cut().clone()
    change = distilled(FAST, student)
    assert distilled(dataclasses.replace(FAST, blocks="model"), whole).modified
    assert weights(student) == weights(whole)
    assert [(note.kind, note.code) for note in change.notes[1:]] == [(NoteKind.REMARK, "one-block")]


def test_a_block_that_ends_in_a_distribution_learns_logits() -> None:
    teacher = residual_network(softmax=True)
    student = scaled(teacher, "v", 0.7)
    before = error(student, teacher)
    change = distilled(dataclasses.replace(FAST, rate=0.02), student, teacher)
    assert done(change.notes) == ["model", "z"]
    assert error(student, teacher) < 0.1 * before


def test_an_older_model_keeps_its_operator_set() -> None:
    teacher = residual_network(13)
    student = scaled(teacher, "w3", 0.5)
    before = error(student, teacher)
    assert distilled(FAST, student, teacher).modified
    assert student.opset_imports[""] == 13
    assert error(student, teacher) < 0.5 * before


@pytest.mark.parametrize("count", [2, 3, 20])
def test_few_samples_are_used_as_they_are(count: int) -> None:
    change = distilled(FAST, pruned(), data=images(count))
    assert done(change.notes)[:3] == ["model", "s1", "s2"]


def test_a_model_of_a_fixed_batch_size_is_trained_in_such_batches() -> None:
    teacher = residual_network(batch="16")
    student = scaled(teacher, "w3", 0.5)
    change = distilled(FAST, student, teacher, images(130))
    assert change.modified
    assert "s2" in done(change.notes)


SHARED = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,8] x) => (float[N,8] y) {
    a = MatMul (x, w)  b = Tanh (a)  c = MatMul (b, w)  d = Tanh (c)  y = MatMul (d, v) }"""


def test_a_weight_of_two_blocks_is_trained_in_the_first() -> None:
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal((8, 8)).astype(np.float32) / 3 for name in ("w", "v")}
    teacher = from_text(SHARED, **arrays)
    student = from_text(SHARED, w=arrays["w"] * np.float32(0.8), v=arrays["v"])
    data = {"x": random.standard_normal((256, 8)).astype(np.float32)}
    change = distilled(dataclasses.replace(FAST, rate=0.01), student, teacher, data)
    told = {note.subject: (note.kind, note.code) for note in change.notes}
    assert told["b"] == (NoteKind.DONE, "")
    assert told["d"] == (NoteKind.LEFT_ALONE, "not-asked")


PADDED = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,8] x) => (float[N,8] y)
<int64[4] sizes = {0, 0, 0, 2}, int64[2] order = {2, 2}, int64[1] flat = {-1}> {
    q = Reshape (sizes, order)  t = Transpose <perm = [1, 0]> (q)  pads = Reshape (t, flat)
    a = MatMul (x, w)  b = Pad (a, pads)  c = Tanh (b)  d = MatMul (c, u)  e = Tanh (d)  y = MatMul (e, v) }"""


def test_blocks_end_where_sizes_of_the_original_follow_from_constants_that_it_computes() -> None:
    random = np.random.default_rng(0)
    shapes = {"w": (8, 6), "u": (8, 8), "v": (8, 8)}
    teacher = from_text(PADDED, **{k: random.standard_normal(s).astype(np.float32) / 3 for k, s in shapes.items()})
    data = {"x": random.standard_normal((256, 8)).astype(np.float32)}
    student = scaled(teacher, "u", 0.8)
    Simplify().run(student, make_context(teacher, data))
    assert "e" in done(distilled(dataclasses.replace(FAST, rate=0.01), student, teacher, data).notes)


@pytest.mark.zoo
def test_blocks_of_a_real_network_are_its_stem_its_residual_blocks_and_its_end() -> None:
    original = open_model(zoo_file("onnx", "cifar10_resnet20.onnx"))
    context = make_context(original, {"input": np.zeros((1, 3, 32, 32), np.float32)})
    student = original.clone()
    Simplify().run(student, context)
    blocks = StudentBlocks(student, context.original, 1, context.samples).blocks
    makers = [block.ends[0].producer() for block in blocks]
    assert [maker.op_type for maker in makers if maker is not None] == ["Relu"] * 10 + ["Gemm"]


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, what: str, done: int, total: int | None) -> None:
        self.lines.append(what)


def test_each_block_has_its_share_of_the_time() -> None:
    progress = Told()
    context = make_context(residual_network(), images(256), progress=progress)
    dataclasses.replace(FAST, minutes=1e-9).run(pruned(), context)
    blocks = [line.partition(",")[0] for line in progress.lines]
    assert blocks == [f"distill: block {number} of 4" for number in (2, 3, 4)]  # the first makes what it should make


def test_zeros_of_sparse_weights_stay() -> None:
    student = pruned()
    value = student.graph.initializers["w2"]
    array = value.const_value.numpy().copy()  # type: ignore[union-attr]
    array[np.abs(array) < np.quantile(np.abs(array), 0.5)] = 0
    value.const_value = ir.tensor(array, name="w2")
    assert "s1" in done(distilled(FAST, student).notes)
    after = student.graph.initializers["w2"].const_value.numpy()  # type: ignore[union-attr]
    assert not after[array == 0].any()
    assert (after != array).any()


def test_samples_that_are_not_finite_teach_nothing() -> None:
    data = images(256)
    data["x"][::2] = np.nan
    student = pruned()
    before = weights(student)
    with pytest.raises(onnxslim.errors.ValuesNotFinite):
        distilled(FAST, student, data=data)
    assert weights(student) == before


@pytest.mark.parametrize(
    "options",
    [
        {"student": "separable"},
        {"features": ("auto",)},
        {"alpha": 0.5},
        {"augment": ("flip",)},
        {"checkpoint": "file"},
        {"keep": Keep.LAST},
        {"blocks": "0"},
        {"blocks": "stage"},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(BadOptionValue, match=name) as caught:
        Distill(**{"blocks": "block", **options})
    assert "blocks" in str(caught.value.hint)
    if name != "blocks":
        Distill(**options)


def test_a_cut_in_steps_trains_block_by_block_between(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    onnxslim.save_model(residual_network(), path)
    result = onnxslim.optimize(
        path, passes="prune:ratio=0.7:most=0.9:align=1:refit=false:exclude=w0:steps=2,distill:blocks=block:batch=16",
        data=images(256), val=images(64, 8), measure=False,
    )  # fmt: skip
    prune, distill = (record for record in result.report.passes if record.name in ("prune", "distill"))
    assert any(note.subject == "s1" and "layers trained" in note.action for note in prune.changes)
    assert distill.kept
    assert "s1" in done(distill.changes)
