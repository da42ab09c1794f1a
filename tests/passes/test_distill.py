"""Distillation wins back what a cut has cost, on samples without labels, and leaves everything else as it is."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import error, images, network, normalized_network
from onnxslim.passes.distill import Distill
from sample_models import from_text
from story import make_context

import onnxslim
from onnxslim.data import synthetic_samples
from onnxslim.errors import BadOptionValue, OutputError, UsageError
from onnxslim.pipeline.interface import Change, Kind, NoteKind
from onnxslim.runtime.session import Session
from onnxslim.train.loop import Keep
from onnxslim.train.terms import OutputLoss

FAST = Distill(epochs=6, batch=16, rate=5e-3)


def distilled(options: Distill, student: ir.Model, teacher: ir.Model, data: Any = None) -> Change:
    return options.run(student, make_context(teacher, images() if data is None else data))


@pytest.mark.parametrize("loss", OutputLoss)
@pytest.mark.parametrize("softmax", [False, True])
def test_a_student_learns_what_its_teacher_gives(softmax: bool, loss: OutputLoss) -> None:
    student, teacher = network(softmax=softmax, noise=0.4), network(softmax=softmax)
    before = error(student, teacher)
    change = distilled(dataclasses.replace(FAST, loss=loss, temperature=2.0), student, teacher)
    assert change.modified
    assert "held out" not in change.notes[0].action
    assert "samples that were set aside" in change.notes[0].action
    after = error(student, teacher)
    if loss is OutputLoss.KL and not softmax:  # logits may differ by a number
        assert after < before
    else:
        assert after < 0.5 * before


def test_an_older_model_is_trained_and_keeps_its_operator_set() -> None:
    student, teacher = network(13, noise=0.4), network(13)
    before = error(student, teacher)
    assert distilled(FAST, student, teacher).modified
    assert student.opset_imports[""] == 13
    assert error(student, teacher) < 0.5 * before


@pytest.mark.parametrize("features", [("auto",), ("a", "s")])
def test_values_between_can_be_compared_as_well(features: tuple[str, ...]) -> None:
    student, teacher = network(noise=0.4), network()
    before = error(student, teacher)
    assert distilled(dataclasses.replace(FAST, features=features), student, teacher).modified
    assert error(student, teacher) < 0.5 * before


COMPUTED = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,8] y) {
    ends = Constant <value = int64[4] {0, 0, 2, 3}> ()  some = Constant <value = int64[1] {4}> ()
    c = ConstantOfShape <value = int64[1] {0}> (some)  l = Concat <axis = 0> (ends, c)
    pairs = Constant <value = int64[2] {-1, 2}> ()  m = Reshape (l, pairs)
    first = Constant <value = int64[1] {-1}> ()  last = Constant <value = int64[1] {-99999}> ()
    axis = Constant <value = int64[1] {0}> ()  back = Constant <value = int64[1] {-1}> ()
    s = Slice (m, first, last, axis, back)  t = Transpose <perm = [1,0]> (s)  f = Reshape (t, first)
    a = Conv <pads = [1,1,1,1]> (x, w)  d = Pad (a, f)  b = Add (d, d)  r = Relu (b)
    p = GlobalAveragePool (r)  y = Flatten (p) }"""
"""Pads as an exporter computes them of what its framework was given."""


def test_features_of_an_original_that_computes_sizes() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 3, 3, 3)).astype(np.float32)
    teacher = from_text(COMPUTED, w=weight)
    for name in ("b", "auto"):
        student = from_text(COMPUTED, w=weight + 0.3 * random.standard_normal(weight.shape).astype(np.float32))
        before = error(student, teacher)
        assert distilled(dataclasses.replace(FAST, features=(name,)), student, teacher).modified
        assert error(student, teacher) < before
    with pytest.raises(BadOptionValue, match="'c'"):
        distilled(dataclasses.replace(FAST, features=("c",)), from_text(COMPUTED, w=weight), teacher)


def test_a_feature_that_is_none_is_refused() -> None:
    with pytest.raises(BadOptionValue, match="'nosuch'") as caught:
        distilled(dataclasses.replace(FAST, features=("nosuch",)), network(), network())
    assert "there are a, r, b, s" in str(caught.value.hint)


ATTENTION = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,6,8] x) => (float[N,6,8] y) {
    q = MatMul (x, wq)  k = MatMul (x, wk)  v = MatMul (x, wv)  t = Transpose <perm = [0, 2, 1]> (k)
    s = MatMul (q, t)  m = Where (mask, s, hidden)  a = Softmax <axis = -1> (m)  y = MatMul (a, v) }"""


def attention(noise: float = 0.0) -> ir.Model:
    """Return one head that sees what is before, and nothing behind: the rest is masked by -inf."""
    random = np.random.default_rng(3)
    weights = {name: random.standard_normal((8, 8)).astype(np.float32) / 3 for name in ("wq", "wk", "wv")}
    shaken = {
        name: array + noise * np.random.default_rng(4).standard_normal((8, 8)).astype(np.float32) / 3
        for name, array in weights.items()
    }
    return from_text(ATTENTION, **shaken, mask=np.tri(6, dtype=bool), hidden=np.float32(-np.inf))


def test_maps_of_attention_are_compared_as_distributions() -> None:
    data = {"x": np.random.default_rng(0).standard_normal((128, 6, 8)).astype(np.float32)}

    def apart(student: ir.Model) -> float:
        """Return how far the maps are from those of the teacher: the greatest difference of probabilities."""
        maps = []
        for each in (student, attention()):
            probe = each.clone()
            probe.graph.outputs.append(next(node.outputs[0] for node in probe.graph if node.op_type == "Softmax"))
            maps.append(Session.of(probe).run(data)["a"])
        return float(np.abs(maps[0] - maps[1]).mean())

    student = attention(0.7)
    before = apart(student)
    options = dataclasses.replace(FAST, features=("attention",), feature_weight=10.0, epochs=20)
    change = distilled(options, student, attention(), data)
    assert change.modified
    assert apart(student) < 0.3 * before


def test_a_model_without_attention_has_no_maps_of_it() -> None:
    with pytest.raises(BadOptionValue, match="'attention'"):
        distilled(dataclasses.replace(FAST, features=("attention",)), network(), network())


def test_labels_count_where_they_are_given_a_share() -> None:
    student, teacher = network(noise=0.4), network()
    labels = np.full(128, 2)  # of no use, so that it shows: every image is of one class
    distilled(dataclasses.replace(FAST, alpha=0.9, epochs=12), student, teacher, images(labels=labels))
    guessed = Session.of(student).run(images(64, 99))["y"].argmax(1)
    assert (guessed == 2).mean() > 0.9
    assert (Session.of(teacher).run(images(64, 99))["y"].argmax(1) == 2).mean() < 0.9


def test_what_is_left_out_stays_and_zeros_of_sparse_weights_stay() -> None:
    student, teacher = network(noise=0.4), network()
    sparse = student.graph.initializers["w2"]
    array = sparse.const_value.numpy().copy()  # type: ignore[union-attr]
    array[np.abs(array) < 0.05] = 0
    sparse.const_value = ir.tensor(array, name="w2")
    before = {name: value.const_value.numpy().copy() for name, value in student.graph.initializers.items()}  # type: ignore[union-attr]
    distilled(dataclasses.replace(FAST, exclude=("w1",)), student, teacher)
    after = {name: value.const_value.numpy() for name, value in student.graph.initializers.items()}  # type: ignore[union-attr]
    np.testing.assert_array_equal(after["w1"], before["w1"])
    assert not (after["w2"][before["w2"] == 0]).any()
    assert (after["w2"] != before["w2"]).any()


def test_a_model_that_is_its_own_teacher_stays_as_it_is() -> None:
    student = network()
    before = {name: value.const_value.numpy().copy() for name, value in student.graph.initializers.items()}  # type: ignore[union-attr]
    change = distilled(FAST, student, network())
    assert not change.modified
    assert change.notes[0].kind is NoteKind.LEFT_ALONE
    for name, array in before.items():
        np.testing.assert_array_equal(student.graph.initializers[name].const_value.numpy(), array)  # type: ignore[union-attr]


def test_the_last_weights_come_out_where_they_are_asked_for() -> None:
    student = network()
    change = distilled(dataclasses.replace(FAST, keep=Keep.LAST), student, network())
    assert change.modified, "though nothing can be better than the original itself"
    assert "kept those after 6" in change.notes[0].reason
    assert error(student, network()) > 0
    change = distilled(dataclasses.replace(FAST, keep=Keep.LAST, rate=1e18), student, network())
    assert not change.modified
    assert "ran away" in change.notes[0].reason


def test_without_samples_nothing_is_learnt() -> None:
    teacher = network()
    synthetic = synthetic_samples(teacher)
    change = distilled(FAST, network(noise=0.4), teacher, synthetic)
    assert not change.modified
    assert "--data" in change.notes[0].reason


@pytest.mark.parametrize("count", [1, 2, 20])
def test_few_samples_are_one_batch_or_none(count: int) -> None:
    change = distilled(Distill(epochs=2), network(noise=0.4), network(), images(count))
    assert change.modified or change.notes[0].reason


def test_augmented_images_are_seen_by_the_teacher_as_well() -> None:
    student, teacher = network(noise=0.4), network()
    before = error(student, teacher)
    names = ("flip", "shift", "cutout", "noise", "mixup")
    assert distilled(dataclasses.replace(FAST, augment=names), student, teacher).modified
    assert error(student, teacher) < 0.5 * before


def test_a_model_without_images_is_not_augmented() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,2] y) { y = MatMul (x, w) }'
    model = from_text(text, w=np.ones((4, 2), np.float32))
    with pytest.raises(BadOptionValue, match="augment is flip"):
        distilled(Distill(augment=("flip",)), model, model.clone(), {"x": np.zeros((32, 4), np.float32)})


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"batch": 0},
        {"rate": -1.0},
        {"alpha": 1.5},
        {"held_out": 1.0},
        {"temperature": 0.0},
        {"clip": 0.0},
        {"patience": 3, "keep": Keep.LAST},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadOptionValue) as caught:
        Distill(**options)
    assert next(iter(options)) in str(caught.value)
    assert caught.value.hint


def test_an_augmentation_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match="flop"):
        Distill(augment=("flop",))


def test_a_run_goes_on_from_its_checkpoint(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "d.ckpt"
    options = dataclasses.replace(FAST, checkpoint=str(path))
    whole, again = network(noise=0.4), network(noise=0.4)
    distilled(options, whole, network())
    assert path.exists()
    distilled(options, again, network())  # all steps are done
    for name, value in whole.graph.initializers.items():
        np.testing.assert_array_equal(value.const_value.numpy(), again.graph.initializers[name].const_value.numpy())  # type: ignore[union-attr]


def test_a_pruned_model_is_judged_together_with_its_distillation(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    teacher = network(softmax=True)
    onnxslim.save_model(teacher, path)
    labels = Session.of(teacher).run(images(400, 8))["y"].argmax(1)
    data, val = images(256), images(400, 8, labels=labels)
    result = onnxslim.optimize(
        path, passes="prune:ratio=0.5:align=1,distill:epochs=20:batch=16:rate=0.002", data=data, val=val, max_drop=0.2,
        measure=False,
    )  # fmt: skip
    records = {record.name: record for record in result.report.passes}
    assert records["distill"].kind == Kind.LOSSY.value
    assert records["prune"].kept
    assert records["prune"].reason.startswith("judged together with distill")
    assert records["distill"].kept


def test_a_short_training_has_a_smaller_rate_unless_it_is_told_which() -> None:
    rates = [Distill().settings.rate_of(steps) for steps in (1, 100, 400, 4000)]
    assert rates == pytest.approx([5e-5, 5e-4, 1e-3, 1e-3])
    assert Distill(rate=0.02).settings.rate_of(1) == 0.02


@pytest.mark.parametrize("opset", [13, 18])
def test_a_student_with_random_weights_takes_the_place_of_the_model(opset: int, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "student.onnx"
    onnxslim.save_model(normalized_network(opset), path)
    model, teacher = network(), network()
    before = error(normalized_network(), teacher)
    change = distilled(Distill(student=str(path), epochs=20, batch=16), model, teacher, images(256))
    assert change.modified
    assert "takes its place" in change.notes[0].action
    assert error(model, teacher) < 0.2 * before
    assert [node.op_type for node in model.graph][:2] == ["Conv", "Relu"]  # what was normalised by is folded
    assert [str(value.shape) for value in model.graph.inputs] == ["[N,3,8,8]"]


def test_a_student_that_learns_nothing_does_not_take_the_place(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "student.onnx"
    onnxslim.save_model(network(), path)
    model = network()
    change = distilled(Distill(student=str(path), epochs=2), model, network())
    assert not change.modified
    np.testing.assert_array_equal(*(Session.of(each).run(images(8))["y"] for each in (model, network())))


def test_the_file_of_the_student_is_not_written_over(tmp_path: pathlib.Path) -> None:
    path, given = tmp_path / "student.onnx", tmp_path / "model.onnx"
    onnxslim.save_model(normalized_network(), path)
    onnxslim.save_model(network(), given)
    with pytest.raises(OutputError, match="would overwrite what distill reads"):
        onnxslim.optimize(given, passes=f"distill:student={path}", data=images(), output=path)


@pytest.mark.parametrize("kind", ["channels last", "double"])
def test_images_that_augmentations_are_not_for_are_refused(kind: str) -> None:
    name, size, dtype = ("float", "8,8,3", np.float32) if kind == "channels last" else ("double", "3,8,8", np.float64)
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g ({name}[N,{size}] x) => ({name}[N,2] y) {{
        f = Flatten (x)  y = MatMul (f, w) }}"""
    model = from_text(text, w=np.ones((192, 2), dtype))
    data = {"x": np.zeros((32, *map(int, size.split(","))), dtype)}
    with pytest.raises(BadOptionValue, match="augment is flip") as caught:
        distilled(Distill(augment=("flip",)), model, model.clone(), data)
    assert "float32 images" in str(caught.value.hint)


def test_one_checkpoint_serves_all_students_of_a_run(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.onnx"
    onnxslim.save_model(network(softmax=True), path)
    steps = f"prune:ratio=0.5:align=1,distill:epochs=1:batch=16:checkpoint={tmp_path / 'c'}"
    data, val = images(64), images(200, 8)
    result = onnxslim.optimize(path, passes=steps, data=data, val=val, max_drop=1e-6, measure=False)
    # the whole does not hold: each is judged by itself, and another student is trained
    assert not any(record.reason.startswith("judged together") for record in result.report.passes)


@pytest.mark.parametrize(("count", "trained"), [(16, False), (31, False), (32, True), (40, True)])
def test_a_fixed_batch_size_takes_a_batch_to_train_on_and_one_to_set_aside(count: int, trained: bool) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[16,4] x) => (float[16,2] y) { y = MatMul (x, w) }'
    teacher = from_text(text, w=np.ones((4, 2), np.float32))
    student = from_text(text, w=np.full((4, 2), 0.5, np.float32))
    data = {"x": np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)}
    change = distilled(Distill(epochs=20, rate=0.05), student, teacher, data)
    assert change.modified == trained
    assert change.notes[0].code == ("" if trained else "few-samples")


@pytest.mark.parametrize("share", [0.01, 1.0])
def test_samples_that_are_not_finite_are_named_and_not_taken_for_a_rate_too_large(
    share: float, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "net.onnx"
    onnxslim.save_model(network(), path)
    data = images(100)
    data["x"][: round(100 * share)] = np.nan
    result = onnxslim.optimize(path, passes="prune:ratio=0.5:align=1:criterion=magnitude:compensate=false:refit=false:"
                               "sensitivity=false,distill:epochs=2:batch=16", data=data, measure=False)  # fmt: skip
    (record,) = (record for record in result.report.passes if record.name == "distill")
    assert not record.kept
    assert record.reason.startswith("nothing to do: the input x is NaN on sample 0 (counted from 0)")
    assert record.reasons[0].code == "nothing-to-do"
    assert [note.code for note in record.changes][:1] == ["not-finite"]


PIVOTED = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,6,24] x) => (float[N,6,40] y) {
    h = MatMul (x, f)  o = MatMul (h, c)  z = Concat <axis = -1> (h, o)  r = Relu (z)  y = MatMul (r, v) }"""


def pivoted(noise: float = 0.0) -> ir.Model:
    """Return a product of rank 8; of the outputs that are kept pairs are nearly the same."""
    random, off = np.random.default_rng(5), np.random.default_rng(6)
    first, others = random.standard_normal((24, 8)), random.standard_normal((8, 32)) / 3
    first += noise * off.standard_normal(first.shape)
    near = np.eye(8)
    for one in range(0, 8, 2):
        near[one, one + 1], near[one + 1, one + 1] = 1, 3e-3
    weights = {"f": first @ near, "c": np.linalg.inv(near) @ others, "v": random.standard_normal((40, 40)) / 6}
    return from_text(PIVOTED, **{name: array.astype(np.float32) for name, array in weights.items()})


def pivoted_data(count: int, seed: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((count, 6, 24)).astype(np.float32)}


def lost(student: ir.Model, teacher: ir.Model) -> float:
    mine, wanted = (Session.of(each).run(pivoted_data(64, 9))["y"] for each in (student, teacher))
    return float(((mine - wanted) ** 2).mean())


@pytest.mark.parametrize("blocks", ["model", "layer"])
def test_a_pivoted_product_is_trained_although_what_it_keeps_is_nearly_dependent(
    blocks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dataclasses.replace(FAST, epochs=30, rate=1e-2, blocks=blocks)
    teacher, student, as_it_is = pivoted(), pivoted(noise=0.4), pivoted(noise=0.4)
    before, shapes = lost(student, teacher), [value.shape for value in student.graph.initializers.values()]
    assert distilled(options, student, teacher, pivoted_data(128, 3)).modified
    assert [value.shape for value in student.graph.initializers.values()] == shapes
    assert [node.op_type for node in student.graph] == ["MatMul", "MatMul", "Concat", "Relu", "MatMul"]
    assert lost(student, teacher) < 0.1 * before
    for module in ("onnxslim.pipeline.training_pass", "onnxslim.passes.distill"):
        monkeypatch.setattr(f"{module}.with_plain_factors", lambda model, *_: (model, []))
    distilled(options, as_it_is, teacher, pivoted_data(128, 3))
    assert lost(as_it_is, teacher) > 3 * lost(student, teacher)


def test_values_within_a_pivoted_product_can_be_compared() -> None:
    teacher, student = pivoted(), pivoted(noise=0.4)
    before = lost(student, teacher)
    options = dataclasses.replace(FAST, features=("h",))
    assert distilled(options, student, teacher, pivoted_data(128, 3)).modified
    assert lost(student, teacher) < before


def test_a_pivoted_product_that_no_real_output_depends_on_stays() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,24] x) => (float[N,5] y, int64[N,1] a) {
        h = MatMul (x, f)  o = MatMul (h, c)  z = Concat <axis = 1> (h, o)  a = ArgMax <axis = 1> (z)
        y = MatMul (x, u) }"""
    random = np.random.default_rng(0)
    shapes = {"f": (24, 4), "c": (4, 12), "u": (24, 5)}
    weights = {key: random.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    teacher, student = from_text(text, **weights), from_text(text, **{**weights, "u": weights["u"] + 0.3})
    data = {"x": random.standard_normal((128, 24)).astype(np.float32)}
    assert distilled(FAST, student, teacher, data).modified
    for name in ("f", "c"):
        stored = student.graph.initializers[name].const_value
        assert stored is not None
        np.testing.assert_array_equal(stored.numpy(), weights[name])
