"""What a sample's loss changes by without a channel: the slope along the weights that read it, whatever the batches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from channel_models import built
from onnxslim.passes.prune import Prune
from onnxslim.passes.prune import taylor as taylor_module
from onnxslim.passes.prune.criterion import Criterion
from onnxslim.passes.prune.taylor import LossChanges, loss_changes
from story import make_context

from onnxslim.analysis.contraction import contractions
from onnxslim.analysis.coupling import Coupling, couple, groups
from onnxslim.arrays import Floats
from onnxslim.data import open_samples
from onnxslim.errors import NotDifferentiable
from onnxslim.observe.statistics import channel_moments
from onnxslim.pipeline.interface import Note
from onnxslim.runtime.session import Session

DRAW = np.random.default_rng(0)


def drawn(*shape: int) -> np.ndarray:
    return (DRAW.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


RESIDUAL = built(
    """g (float[N,3,6,6] x) => (float[N,5] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1, b1) r = Relu (a) c = Conv <pads=[1,1,1,1]> (r, w2) d = Add (c, r)
        p = GlobalAveragePool (d) f = Flatten (p) z = Gemm <transB=1> (f, w3) y = Softmax (z)
    }""",
    w1=drawn(8, 3, 3, 3), b1=drawn(8), w2=drawn(8, 8, 3, 3), w3=6 * drawn(5, 8),
)  # fmt: skip
IMAGES = DRAW.standard_normal((7, 3, 6, 6)).astype(np.float32)
CLASSES = DRAW.integers(0, 5, 7)


def changes_of(
    model: ir.Model, arrays: dict[str, np.ndarray], *, labels: bool = True, means: bool = False
) -> tuple[Coupling, LossChanges]:
    coupling, read = couple(model), list(contractions(model.graph))
    samples = open_samples(arrays, Session.of(model).inputs)
    places = [(each.data.name or "", each.data_axis) for each in read]
    moments = channel_moments(model, places, samples, Session.of) if means else None
    return coupling, loss_changes(model, coupling, read, moments, samples, 3, Session.of, labels=labels)


def loss_of_each(model: ir.Model, channel: int, gate: float) -> Floats:
    """Return the cross-entropy of each sample where all that read a channel of the stream read `gate` times it."""
    gated = model.clone()
    for name in ("w2", "w3"):
        array = gated.graph.initializers[name].const_value.numpy().copy()
        array[:, channel] *= gate
        gated.graph.initializers[name].const_value = ir.tensor(array, name=name)
    shares = Session.of(gated).run({"x": IMAGES})["y"].astype(np.float64)
    return -np.log(shares[np.arange(len(CLASSES)), CLASSES])


def test_changes_are_the_slopes_of_the_loss_along_the_weights_that_read_a_channel() -> None:
    coupling, changes = changes_of(RESIDUAL, {"x": IMAGES, "labels": CLASSES})
    (group,) = groups(coupling)
    assert changes.labelled
    assert changes.samples == 7
    slopes = [(loss_of_each(RESIDUAL, at, 1.01) - loss_of_each(RESIDUAL, at, 0.99)) / 0.02 for at in range(8)]
    np.testing.assert_allclose(changes.magnitude[group.roots], np.abs(slopes).mean(axis=1), rtol=0.02, atol=1e-4)
    np.testing.assert_allclose(changes.square[group.roots], np.square(slopes).mean(axis=1), rtol=0.03, atol=1e-5)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("means", [True, False])
def test_batches_do_not_count(monkeypatch: pytest.MonkeyPatch, labels: bool, means: bool) -> None:
    found = []
    for size in (1, 3, 7):
        monkeypatch.setattr(taylor_module, "batch_size", lambda *_, size=size, **__: size)
        _, changes = changes_of(RESIDUAL, {"x": IMAGES, "labels": CLASSES}, labels=labels, means=means)
        assert changes.labelled is labels
        found.append(changes)
    for changes in found[1:]:
        np.testing.assert_allclose(changes.square, found[0].square, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(changes.magnitude, found[0].magnitude, rtol=1e-4, atol=1e-9)


def test_samples_that_share_rows_run_one_by_one() -> None:
    """Positions first, or all in one axis: the rows of what is read are no samples."""
    weights = {"w1": drawn(4, 8), "w2": drawn(8, 3)}
    text = "g (float[N,5,4] x) => (float[N,5,3] y) {{ {} y = Softmax <axis = -1> (z) }}"
    forms = [
        "a = MatMul (x, w1) r = Relu (a) z = MatMul (r, w2)",
        """t = Transpose <perm=[1,0,2]> (x) a = MatMul (t, w1) r = Relu (a) o = MatMul (r, w2)
           z = Transpose <perm=[1,0,2]> (o)""",
        """t = Reshape <allowzero=0> (x, flat) a = MatMul (t, w1) r = Relu (a) o = MatMul (r, w2)
           z = Reshape <allowzero=0> (o, rows)""",
    ]
    sizes = {"flat": np.array([-1, 4]), "rows": np.array([-1, 5, 3])}
    positions = DRAW.standard_normal((6, 5, 4)).astype(np.float32)
    found = []
    for form in forms:
        shapes = {name: array for name, array in sizes.items() if name in form}
        coupling, changes = changes_of(built(text.format(form), **weights, **shapes), {"x": positions}, labels=False)
        (group,) = [each for each in groups(coupling) if len(each.roots) == 8]
        found.append(changes.square[group.roots])
    assert found[0].all()
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-4)


def test_directions_give_the_energy_of_what_a_channel_adds_to_the_outputs() -> None:
    model = built("g (float[N,4] x) => (float[N,6] y) { a = MatMul (x, w1) r = Relu (a) y = MatMul (r, w2) }",
                  w1=drawn(4, 8), w2=drawn(8, 6))  # fmt: skip
    data = np.repeat(DRAW.standard_normal((1, 4)).astype(np.float32), 2000, axis=0)
    coupling, changes = changes_of(model, {"x": data}, labels=False)
    (group,) = groups(coupling)
    first, second = (model.graph.initializers[name].const_value.numpy() for name in ("w1", "w2"))
    energy = (np.maximum(data @ first, 0) ** 2).mean(axis=0) * (second**2).sum(axis=1)
    np.testing.assert_allclose(changes.square[group.roots], energy, rtol=0.12)


def test_a_mean_that_stays_behind_is_no_loss() -> None:
    """A channel that is the same on all samples costs nothing where the biases that follow stand for it."""
    model = RESIDUAL.clone()
    array = model.graph.initializers["w1"].const_value.numpy().copy()
    array[0] = 0
    model.graph.initializers["w1"].const_value = ir.tensor(array, name="w1")
    bias = np.abs(model.graph.initializers["b1"].const_value.numpy())
    model.graph.initializers["b1"].const_value = ir.tensor(bias, name="b1")
    readers = model.graph.initializers["w2"].const_value.numpy() * 0
    model.graph.initializers["w2"].const_value = ir.tensor(readers, name="w2")
    arrays = {"x": IMAGES, "labels": CLASSES}
    (coupling, plain), (_, compensated) = changes_of(model, arrays), changes_of(model, arrays, means=True)
    (group,) = groups(coupling)
    assert plain.square[group.roots[0]] > 1e-5
    assert compensated.square[group.roots[0]] < 1e-9


def planted() -> ir.Model:
    """Return a model whose 16 first channels, small as their weights are, are all that the outputs depend on."""
    first, second = drawn(8, 32), drawn(32, 16)
    first[:, :16] *= 0.1
    second[16:, 8:] *= 10
    second[16:, :8] = 0
    third = drawn(16, 4)
    third[8:] = 0
    return built("g (float[N,8] x) => (float[N,4] y) { a = MatMul (x, w1) r = Relu (a) b = MatMul (r, w2) s = Relu (b)"
                 " y = MatMul (s, w3) }", w1=first, w2=second, w3=third)  # fmt: skip


@pytest.mark.parametrize(
    ("criterion", "right"),
    [(Criterion.TAYLOR, True), (Criterion.FISHER, True), (Criterion.MAGNITUDE, False), (Criterion.ACTIVATION, False)],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_what_the_outputs_hang_on_is_kept(criterion: Criterion, right: bool, labelled: bool) -> None:
    model = planted()
    wanted = model.graph.initializers["w1"].const_value.numpy()[:, :16]
    arrays = {"x": DRAW.standard_normal((64, 8)).astype(np.float32)}
    if labelled:
        arrays["labels"] = DRAW.integers(0, 4, 64)
    options = Prune(params=0.46, criterion=criterion, sensitivity=False, compensate=False, refit=False, include=("w1",))
    options.run(model, make_context(model, arrays))
    left = model.graph.initializers["w1"].const_value.numpy()
    assert left.shape == (8, 16)
    assert np.array_equal(left, wanted) is right


def note_of(model: ir.Model, criterion: Criterion, arrays: dict[str, np.ndarray]) -> list[Note]:
    change = Prune(criterion=criterion, sensitivity=False).run(model, make_context(model, arrays))
    return [note for note in change.notes if note.subject == "criterion"]


def test_the_report_says_whose_loss_it_is() -> None:
    data = {"x": DRAW.standard_normal((64, 8)).astype(np.float32)}
    labelled = {**data, "labels": DRAW.integers(0, 4, 64)}
    (note,) = note_of(planted(), Criterion.TAYLOR, labelled)
    assert note.action == "gradients of the loss of the labels"
    assert note.reason == "on 64 samples"
    for criterion, arrays in ((Criterion.TAYLOR, data), (Criterion.FISHER, labelled)):
        (note,) = note_of(planted(), criterion, arrays)
        assert "drawn from the model's own outputs" in note.action


def without_gradient() -> ir.Model:
    return built("g (float[N,8] x) => (float[N] y) { a = MatMul (x, w1) r = Relu (a) b = MatMul (r, w2)"
                 " m = Reshape (b, s) y = Det (m) }",
                 w1=drawn(8, 32), w2=drawn(32, 4), s=np.array([-1, 2, 2]))  # fmt: skip


@pytest.mark.parametrize("criterion", [Criterion.TAYLOR, Criterion.FISHER])
def test_a_model_without_gradients_is_cut_by_the_default(criterion: Criterion) -> None:
    arrays = {"x": DRAW.standard_normal((64, 8)).astype(np.float32)}
    model = without_gradient()
    with pytest.raises(NotDifferentiable, match="Det"):
        changes_of(model, arrays)
    results: list[ir.Model] = []
    for each in (criterion, Prune().criterion):
        cut = model.clone()
        change = Prune(criterion=each).run(cut, make_context(model, arrays))
        assert change.modified
        notes = [note for note in change.notes if note.subject == "criterion"]
        if each is criterion:
            assert [note.action for note in notes] == ["reconstruction"]
            assert "Det" in notes[0].reason
        results.append(cut)
    one, two = (ir.to_proto(each).SerializeToString() for each in results)
    assert one == two
