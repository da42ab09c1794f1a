"""Reconstruction: a quantized model makes more nearly what its float model makes, with other integers in one form."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from distilled_models import error, images, network, residual_network
from onnxslim.passes.qat import Qat
from onnxslim.passes.quant import Quant
from onnxslim.passes.reconstruct import Reconstruct
from onnxslim.passes.reconstruct.counterparts import Counterparts
from onnxslim.passes.simplify import Simplify
from sample_models import from_text
from story import make_context, nodes_of

from onnxslim.analysis.float_form import float_form
from onnxslim.analysis.quantized import quantized_layers
from onnxslim.errors import BadOptionValue
from onnxslim.pipeline.interface import Change, NoteKind
from onnxslim.pipeline.options import make_pass
from onnxslim.runtime.session import Session

FAST = Reconstruct(steps=120, batch=16, samples=256)


def quantized(teacher: ir.Model, feeds: dict[str, np.ndarray] | None = None, **options: Any) -> ir.Model:
    model = teacher.clone()
    context = make_context(teacher, images() if feeds is None else feeds)
    Simplify().run(model, context)
    assert make_pass("quant", {"float_time": 0.0, "equalize": False, **options}).run(model, context).modified
    return model


def stored(model: ir.Model) -> dict[str, np.ndarray]:
    kinds = (ir.DataType.INT8, ir.DataType.INT4, ir.DataType.INT2, ir.DataType.INT32)
    values = model.graph.initializers.values()
    return {value.name or "": value.const_value.numpy().copy() for value in values if value.dtype in kinds}  # type: ignore[union-attr]


def reconstructed(model: ir.Model, teacher: ir.Model, settings: Reconstruct = FAST) -> Change:
    return settings.run(model, make_context(teacher, images(256)))


@pytest.mark.parametrize(
    ("weights", "blocks", "share"),
    [("int2", "block", 0.7), *(("int4", blocks, 0.8) for blocks in ("layer", "block", "2", "model"))],
)
def test_it_is_better_afterwards_and_of_the_same_form(weights: str, blocks: str, share: float) -> None:
    teacher = network()
    model = quantized(teacher, weights=weights, rounding="nearest")
    before, form, layers = error(model, teacher), [node.op_type for node in model.graph], quantized_layers(model)
    change = reconstructed(model, teacher, dataclasses.replace(FAST, blocks=blocks))
    assert [node.op_type for node in model.graph] == form
    assert quantized_layers(model) == layers
    assert change.modified
    assert change.notes[0].kind is NoteKind.DONE
    assert "samples that no block has seen" in change.notes[0].reason
    assert error(model, teacher) < share * before


def test_blocks_that_are_better_and_serve_no_output_are_not_kept() -> None:
    teacher = network()
    model = quantized(teacher, weights="int2", rounding="nearest")
    before = stored(model)
    change = reconstructed(model, teacher, dataclasses.replace(FAST, blocks="layer"))
    assert not change.modified
    assert change.notes[0].kind is NoteKind.LEFT_ALONE
    assert "outputs" in change.notes[0].reason
    for name, array in stored(model).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_nothing_is_kept_that_is_not_better(weights: str) -> None:
    teacher = network()
    model = quantized(teacher, weights=weights)
    before = error(model, teacher)
    change = reconstructed(model, teacher, dataclasses.replace(FAST, steps=40))
    assert error(model, teacher) < 1.05 * before
    kinds = {note.kind for note in change.notes}
    assert kinds <= {NoteKind.DONE, NoteKind.LEFT_ALONE}
    assert change.modified == (NoteKind.DONE in kinds)


def test_weights_go_to_neighbours_of_the_real_numbers() -> None:
    teacher = network()
    model = quantized(teacher, weights="int4", rounding="nearest")
    floats = float_form(model)
    assert floats is not None
    assert reconstructed(model, teacher).modified
    checked = 0
    for node in model.graph:
        source = node.inputs[0]
        cast = None if source is None else source.producer()
        if node.op_type == "DequantizeLinear" and cast is not None and cast.op_type == "Cast":
            weight = cast.inputs[0]
            assert weight is not None
            levels = weight.const_value.numpy().astype(np.float64)  # type: ignore[union-attr]
            scale = node.inputs[1].const_value.numpy()  # type: ignore[union-attr]
            real = floats.graph.initializers[weight.name or ""].const_value.numpy()  # type: ignore[union-attr]
            shape = [-1 if place == node.attributes.get_int("axis", 1) else 1 for place in range(levels.ndim)]
            quotient = np.clip(real / scale.reshape(shape), -8, 7)
            assert np.abs(levels - quotient).max() < 1 + 1e-3
            checked += 1
    assert checked


def test_it_repeats_itself() -> None:
    teacher = network()
    model = quantized(teacher, weights="int2", rounding="nearest")
    twice = [model.clone(), model.clone()]
    for each in twice:
        assert reconstructed(each, teacher).modified
    first, second = map(stored, twice)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_what_is_excluded_keeps_its_integers() -> None:
    teacher = network()
    model = quantized(teacher, weights="int2", rounding="nearest")
    before = stored(model)
    kept = next(name for name, array in before.items() if array.shape == (8, 8, 3, 3))
    assert reconstructed(model, teacher, dataclasses.replace(FAST, exclude=(kept,))).modified
    after = stored(model)
    np.testing.assert_array_equal(before[kept], after[kept])
    assert any((before[name] != after[name]).any() for name in before if name in after)


GROUPED = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,8] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)  r = Relu (a)  c = Conv <pads = [1,1,1,1], group = 4> (r, w2, b2)
    s = Relu (c)  p = GlobalAveragePool (s)  f = Flatten (p)  y = MatMul (f, v) }"""


def smooth(count: int, seed: int) -> dict[str, np.ndarray]:
    """Images whose neighbouring pixels are alike, so that rounding to the nearest is not best."""
    random = np.random.default_rng(seed)
    pixels = random.standard_normal((count, 3, 1, 1)) + 0.3 * random.standard_normal((count, 3, 8, 8))
    return {"x": pixels.astype(np.float32)}


def test_grouped_convolutions_and_products_of_matrices() -> None:
    random = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 2, 3, 3), "b2": (8,), "v": (8, 8)}
    teacher = from_text(GROUPED, **{k: (random.standard_normal(s) / 2).astype(np.float32) for k, s in shapes.items()})
    model = quantized(teacher, weights="int2", rounding="nearest")
    judged = smooth(256, 2)
    (wanted,) = Session.of(teacher).run(judged).values()
    (was,) = Session.of(model).run(judged).values()
    change = FAST.run(model, make_context(teacher, smooth(256, 1)))
    (made,) = Session.of(model).run(judged).values()
    assert change.modified
    assert sum(note.kind is NoteKind.DONE for note in change.notes) >= 3, "the whole, and two of its blocks"
    assert np.mean((made - wanted) ** 2) < 0.7 * np.mean((was - wanted) ** 2)


@pytest.mark.parametrize(
    ("model", "reason"), [("float", "quant makes some"), ("opened", "quant must run before")], ids=str
)
def test_what_cannot_be_reconstructed_stays_as_it_is(model: str, reason: str) -> None:
    teacher = network()
    given = teacher if model == "float" else ir.from_proto(ir.to_proto(quantized(teacher)))
    before = nodes_of(given.graph)
    change = reconstructed(given, teacher)
    assert not change.modified
    assert change.notes[0].kind is NoteKind.LEFT_ALONE
    assert reason in change.notes[0].reason
    assert nodes_of(given.graph) == before


def test_a_model_of_a_fixed_batch_size_is_reconstructed_in_such_batches() -> None:
    teacher = residual_network(batch="16")
    model = quantized(teacher, images(256), weights="int2", rounding="nearest")
    settings = dataclasses.replace(FAST, steps=60, batch=24)
    change = settings.run(model, make_context(teacher, images(256)))
    assert change.modified
    assert {note.kind for note in change.notes} == {NoteKind.DONE}


def test_it_runs_between_quant_and_qat() -> None:
    assert Quant.name in Reconstruct.after
    assert Reconstruct.name in Qat.after


@pytest.mark.parametrize("options", [{"blocks": "0"}, {"blocks": "stage"}, {"drop": 1.5}, {"steps": 0}], ids=str)
def test_options_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(BadOptionValue):
        Reconstruct(**options)


def test_the_result_runs_as_a_file_does(tmp_path: Any) -> None:
    teacher = network()
    model = quantized(teacher, weights="int4")
    reconstructed(model, teacher)
    ir.save(model, tmp_path / "model.onnx")
    again = ir.load(tmp_path / "model.onnx")
    feeds = images(8, 5)
    np.testing.assert_array_equal(Session.of(again).run(feeds)["y"], Session.of(model).run(feeds)["y"])


BEHIND = {
    "swish": "h = HardSwish (a)",
    "written out": "e = HardSigmoid <alpha = 0.2> (a) h = Mul (e, a)",
    "gate": "h = HardSigmoid <alpha = 0.1> (a)",
    "squeeze and excite": "p = GlobalAveragePool (a) s = Conv (p, w) e = HardSigmoid (s) h = Mul (a, e)",
}


def gated(body: str) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Return a model with a gate between two convolutions, and samples."""
    generator = np.random.default_rng(0)
    weights = {"u": (16, 8, 1, 1), "v": (4, 16, 1, 1), **({"w": (16, 16, 1, 1)} if "w)" in BEHIND[body] else {})}
    teacher = from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,6,6] x) => (float[N,4,6,6] y) {{
            a = Conv (x, u) {BEHIND[body]} y = Conv (h, v) }}""",
        **{name: generator.normal(size=shape).astype(np.float32) for name, shape in weights.items()},
    )
    return teacher, {"x": generator.normal(size=(256, 8, 6, 6)).astype(np.float32)}


@pytest.mark.parametrize(("body", "factor"), [("swish", None), ("written out", "e"), ("squeeze and excite", "e")])
def test_levels_on_another_scale_stand_for_the_gate(body: str, factor: str | None) -> None:
    teacher, feeds = gated(body)
    model = quantized(teacher, feeds)
    floats = float_form(model)
    assert floats is not None
    (product,) = (node for node in model.graph if node.op_type == "Mul")
    found = [value and Counterparts(model, floats).of(value) for value in product.inputs]
    assert {None if value is None else value.name for value in found} == {"a", factor}


@pytest.mark.parametrize("blocks", ["layer", "block"])
@pytest.mark.parametrize("body", BEHIND)
def test_layers_around_gates_are_reconstructed(body: str, blocks: str) -> None:
    teacher, feeds = gated(body)
    model = quantized(teacher, feeds, weights="int4", rounding="nearest")
    assert "HardSwish" not in {node.op_type for node in model.graph}
    settings = dataclasses.replace(FAST, blocks=blocks)
    change = settings.run(model, make_context(teacher, feeds))
    assert change.modified or body == "gate"  # with so few levels nothing makes its blocks better
    reasons = [note.reason for note in change.notes if note.kind is NoteKind.LEFT_ALONE]
    assert all(
        reason.startswith("its error on the samples that were set aside did not get smaller") for reason in reasons
    )
