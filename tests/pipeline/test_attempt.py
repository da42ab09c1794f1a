"""Wrong rewrites are found out, named and left out; the others stay."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxslim.passes import simplify
from onnxslim.passes.simplify import rounds
from sample_models import from_text

import onnxslim
from onnxslim.errors import PassFailed
from onnxslim.pipeline.interface import NoteKind
from onnxslim.pipeline.records import PassRecord
from onnxslim.rewrite import driver
from onnxslim.rewrite.reader import load_rules, read_rules

ABS = """
# Right only where x is not negative.
abs_is_nothing (float[...S] x) => (float[...S] y)
match   { y = Abs (x) }
rewrite { y = Identity (x) }
"""

MAX = """
# Right only for a batch of one.
max_of_one (float[N,M] x) => (float[N,M] y)
match   { t = ReduceMax <axes = [0], keepdims = 1> (x)  y = Mul (x, t) }
rewrite { y = Mul (x, x) }
"""

CAST = """
# Checks as ONNX text, and ONNX Runtime refuses it: floats are declared there.
unloadable (float[...S] x) => (float[...S] y)
match   { a = Cos (x)  y = Sin (a) }
rewrite { y = Cast <to = 11> (x) }
"""

TWO_SITES = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y, float[N,4] z, float[N,4] w) {
    n = Neg (x)  n2 = Relu (n)  n3 = Relu (n2)
    y = Abs (x)
    e = Cosh (n3)  z = Abs (e)
    d = Identity (x)  w = Tanh (d) }"""


@pytest.fixture
def wrong_rules(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Let simplify have wrong rules beside its own."""

    def loaded(package: str, opset: int, ops: set[str] | None = None) -> object:
        return (*load_rules(package, opset, ops), *read_rules(getattr(request, "param", ABS), opset))

    monkeypatch.setattr(rounds, "load_rules", loaded)


def simplified(model: ir.Model, **arguments: object) -> tuple[ir.Model, PassRecord]:
    result = onnxslim.optimize(model, "simplify", measure=False, **arguments)  # type: ignore[arg-type]
    (record,) = result.report.passes
    return result.model, record


def left_out(record: PassRecord) -> dict[str, str]:
    return {note.subject: note.reason for note in record.changes if note.action == "left out"}


def ops(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in model.graph)


@pytest.mark.usefixtures("wrong_rules")
def test_the_guilty_site_is_left_out_and_the_rest_is_done() -> None:
    model, record = simplified(from_text(TWO_SITES))
    assert record.kept
    assert ops(model) == ["Abs", "Cosh", "Neg", "Relu", "Tanh"], "one Abs went, where it changed nothing"
    assert list(left_out(record)) == ["abs_is_nothing at y"]
    assert "the outputs changed: y: relative difference" in left_out(record)["abs_is_nothing at y"]
    assert "left out: abs_is_nothing at y" in record.reason
    assert ("rewrites-left-out", ("y",)) in [(reason.code, reason.values) for reason in record.reasons]
    (note,) = [note for note in record.changes if note.kind is NoteKind.LEFT_OUT]
    assert (note.code, note.values) == ("outputs-changed", ("y",))
    assert any(note.subject == "abs_is_nothing" and note.action == "applied 1 times" for note in record.changes)


@pytest.mark.usefixtures("wrong_rules")
def test_a_rule_that_is_guilty_at_several_sites_is_left_out_everywhere() -> None:
    model, record = simplified(
        from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
            a = Tanh (x)  y = Abs (a)  b = Sin (x)  c = Abs (b)  d = Exp (c)  e = Identity (d)  z = Neg (e) }""")
    )
    assert record.kept
    assert list(left_out(record)) == ["abs_is_nothing"]
    assert "2 sites" in left_out(record)["abs_is_nothing"]
    assert ops(model) == ["Abs", "Abs", "Exp", "Neg", "Sin", "Tanh"]


@pytest.mark.usefixtures("wrong_rules")
@pytest.mark.parametrize("wrong_rules", [MAX], indirect=True)
def test_what_holds_for_one_size_only_is_found_out() -> None:
    model, record = simplified(
        from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
            i = Identity (x)  t = ReduceMax <axes = [0], keepdims = 1> (i)  y = Mul (x, t) }""")
    )
    assert record.kept
    assert "(at N = 2)" in left_out(record)["max_of_one at y"]
    assert "ReduceMax" in ops(model)


@pytest.mark.usefixtures("wrong_rules")
@pytest.mark.parametrize("wrong_rules", [CAST], indirect=True)
def test_what_onnxruntime_does_not_load_is_found_out() -> None:
    model, record = simplified(
        from_text("""<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,4] y) {
            i = Identity (x)  a = Cos (i)  y = Sin (a) }""")
    )
    assert record.kept
    assert "does not run" in left_out(record)["unloadable at y"]
    assert ops(model) == ["Cos", "Sin"]


@pytest.mark.usefixtures("wrong_rules")
def test_the_same_is_left_out_each_time() -> None:
    made = [simplified(from_text(TWO_SITES), seed=3) for _ in range(2)]
    texts = {ir.to_proto(model).SerializeToString(deterministic=True) for model, _ in made}
    assert len(texts) == 1
    assert left_out(made[0][1]) == left_out(made[1][1])


def test_a_wrong_step_in_python_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: ir.Model) -> int:
        done = 0
        for node in model.graph:
            if node.op_type == "Tanh":
                node.op_type, done = "Sin", done + 1
        return done

    monkeypatch.setattr(rounds, "STEPS", (*rounds.STEPS[:3], ("tanh spoiled", spoil), *rounds.STEPS[3:]))
    model, record = simplified(from_text(TWO_SITES))
    assert record.kept
    assert ops(model) == ["Abs", "Abs", "Cosh", "Neg", "Relu", "Tanh"]
    assert list(left_out(record)) == ["tanh spoiled"], "it was guilty in the first round, and in the second"


def test_a_rule_that_raises_halfway_is_skipped_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = driver._Driver._apply

    def halfway(self: driver._Driver, match: driver.Match, plan: driver.Plan) -> list[ir.Node]:
        touched = apply(self, match, plan)
        if match.rule.name == "twice_is_once_relu":
            match.results()[0].name = "lost"
            touched[0].replace_input_with(0, None)
            raise ValueError("of all things")
        return touched

    monkeypatch.setattr(driver._Driver, "_apply", halfway)
    model, record = simplified(from_text(TWO_SITES))
    assert record.kept, record.reason
    assert ops(model) == ["Abs", "Abs", "Cosh", "Neg", "Relu", "Relu", "Tanh"]
    assert "twice_is_once_relu" in {note.subject.partition(" ")[0] for note in record.changes if note.reason}


def test_steps_and_shape_inference_that_raise_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise KeyError("of all things")

    monkeypatch.setattr(rounds, "infer_shapes", broken)
    monkeypatch.setattr(rounds, "STEPS", (("broken step", broken), *rounds.STEPS))
    model, record = simplified(from_text(TWO_SITES))
    assert record.kept
    assert "Identity" not in ops(model)
    left = {note.subject: note.reason for note in record.changes if note.action == "left alone"}
    assert left["shapes"] == left["broken step"] == "KeyError: 'of all things'"


def test_what_raises_after_a_rewrite_is_that_rewrite(monkeypatch: pytest.MonkeyPatch) -> None:
    run = simplify.Simplify.run

    def raising(self: simplify.Simplify, model: ir.Model, context: simplify.Context) -> simplify.Change:
        if context.gate.check("explosive", "y") is None:
            raise ZeroDivisionError("by zero")
        return run(self, model, context)

    monkeypatch.setattr(simplify.Simplify, "run", raising)
    model, record = simplified(from_text(TWO_SITES))
    assert record.kept
    assert left_out(record) == {"explosive at y": "it raised ZeroDivisionError: by zero"}
    assert "Identity" not in ops(model)


def test_a_pass_that_raises_without_a_rewrite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(self: object, model: ir.Model, context: simplify.Context) -> simplify.Change:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(simplify.Simplify, "run", raising)
    with pytest.raises(PassFailed, match="ZeroDivisionError"):
        simplified(from_text(TWO_SITES))


def test_random_outputs_are_no_difference() -> None:
    _, record = simplified(
        from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
            i = Identity (x)  r = RandomNormalLike (i)  y = Add (i, r) }""")
    )
    assert record.kept, record.reason
    assert not left_out(record)


def feeds(sizes: Sequence[int]) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=sizes).astype(np.float32)}


@pytest.mark.usefixtures("wrong_rules")
@pytest.mark.parametrize("wrong_rules", [MAX], indirect=True)
def test_given_samples_are_varied_too(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnx"
    model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
        i = Identity (x)  t = ReduceMax <axes = [0], keepdims = 1> (i)  y = Mul (x, t) }""")
    onnx.save(ir.to_proto(model), path)
    result = onnxslim.optimize(path, "simplify", val=feeds((1, 4)), data=feeds((8, 4)), measure=False)
    assert "max_of_one at y" in left_out(result.report.passes[0])


def test_rounding_that_a_model_magnifies_is_no_difference() -> None:
    """The sine of a large number depends on the last digits of the input: no rewrite is to blame."""
    constants = "a = Constant <value_float = 111.1> ()  b = Constant <value_float = 97.3> ()"
    model, record = simplified(
        from_text(f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,64] y) {{
            {constants}  m = Mul (x, a)  n = Mul (m, b)  y = Sin (n) }}""")
    )
    assert record.kept, record.reason
    assert not left_out(record)
    assert ops(model) == ["Mul", "Sin"]


OLD = """<ir_version: 3, opset_import: ["" : 6]> g (float[2,3] x, float[2,3] z) => (float[2,3] y, float[2,3] w) {
    i = Identity (x)  one = Neg (i)  two = Neg (one)  y = Add (two, z)  dead = Exp (x)  w = Relu (y) }"""


def test_old_opsets_pass_through(tmp_path: pathlib.Path) -> None:
    """No rule applies, whose ops broadcast otherwise there: two negations stay."""
    path = tmp_path / "old.onnx"
    onnx.save(ir.to_proto(from_text(OLD)), path)
    model = onnxslim.open_model(path)
    attempted = simplify.Simplify().run(model, simplify.Context(model, None, None, np.random.default_rng(0)))  # type: ignore[arg-type]
    assert ops(model) == ["Add", "Neg", "Neg", "Relu"]
    assert attempted.notes[-1].reason == "opset 6 is older than 7"


def test_passes_that_know_newer_ops_leave_old_models_alone(tmp_path: pathlib.Path) -> None:
    text = OLD.replace("y = Add (two, z)", "y = Sigmoid (two)")  # ONNX Runtime has kernels for it
    path = tmp_path / "old.onnx"
    onnx.save(ir.to_proto(from_text(text)), path)
    result = onnxslim.optimize(path, "simplify,prune", output=tmp_path / "new.onnx", measure=False)
    simple, prune = result.report.passes
    assert simple.kept
    assert simple.nodes == (6, 4)
    assert not prune.kept
    assert "opset 6 is older than 7" in prune.reason
    assert onnx.load(tmp_path / "new.onnx").opset_import[0].version == 6
