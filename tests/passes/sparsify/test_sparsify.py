"""The pass on a trained net: the zeros that were asked for, closer outputs by second order, sparse files."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from channel_models import built, weight
from onnxslim.passes.sparsify import Method, Scope, Sparsify, Store
from zoo import MODELS

import onnxslim
from onnxslim.data import open_samples
from onnxslim.errors import BadOptionValue
from onnxslim.model import file_bytes, open_model, save_model
from onnxslim.runtime.session import Session

NET = MODELS / "fashion_resnet8.onnx"


@pytest.fixture(scope="module")
def samples():
    return open_samples(MODELS / "fashion_calib.npz", Session.of(NET).inputs).draw(64)


@pytest.fixture(scope="module")
def held_out():
    batches = open_samples(MODELS / "fashion_test.npz", Session.of(NET).inputs).draw(128).batches(128)
    return next(batches).feeds["image"]


def run(step, samples=None, **options):
    return onnxslim.optimize(NET, ["simplify", step], data=samples, val=samples, measure=False, **options)


def outputs(model, images):
    session = Session.of(model)
    (name,) = (spec.name for spec in session.inputs)
    return next(iter(session.run({name: images}).values()))


def zeros(result, smallest=256):
    arrays = [value.const_value.numpy() for value in result.model.graph.initializers.values()]
    arrays = [array for array in arrays if array.ndim > 1 and array.size >= smallest]
    return sum((array == 0).sum() for array in arrays) / sum(array.size for array in arrays)


def test_second_order_beats_magnitude_at_the_same_sparsity(samples, held_out):
    wanted = outputs(NET, held_out)
    errors = {}
    for method in Method:
        result = run(Sparsify(ratio=0.7, method=method), samples)
        assert zeros(result) == pytest.approx(0.7, abs=0.01)
        errors[method] = np.square(outputs(result.model, held_out) - wanted).mean()
    assert errors[Method.OBS] < 0.8 * errors[Method.MAGNITUDE]


def test_two_of_four_along_the_input(samples):
    result = run("sparsify:pattern=2:4", samples)
    assert result.report.passes[-1].kept
    weights = [value.const_value.numpy() for value in result.model.graph.initializers.values()]
    checked = [w for w in weights if w.ndim == 4 and w.shape[1] % 4 == 0]
    for each in checked:
        groups = np.moveaxis(each, 1, -1).reshape(-1, 4)
        assert ((groups != 0).sum(axis=1) <= 2).all()
    assert len(checked) >= 7
    left = [note.reason for note in result.report.passes[-1].changes if note.action == "left alone"]
    assert "1 input channels are no whole groups of 4" in left


def test_made_up_samples_choose_by_magnitude_and_that_is_said():
    record = run(Sparsify()).report.passes[-1]
    (note,) = [note for note in record.changes if note.subject == "method"]
    assert (note.action, "made up" in note.reason) == ("magnitude", True)
    (note,) = [note for note in record.changes if note.subject == "compressed"]
    assert "no faster" in note.reason


def test_global_scope_include_exclude_and_smallest():
    whole = run(Sparsify(method=Method.MAGNITUDE, scope=Scope.GLOBAL))
    assert zeros(whole) == pytest.approx(0.5, abs=0.01)
    shares = {n.action for n in whole.report.passes[-1].changes if n.action.endswith("magnitude")}
    assert len(shares) > 1
    one = run(Sparsify(method=Method.MAGNITUDE, include=("*c2*",), exclude=("*l.0*",)))
    reasons = {note.reason for note in one.report.passes[-1].changes}
    assert {"not in include"} <= reasons
    none = run(Sparsify(smallest=10**9)).report.passes[-1]
    assert (none.kept, "no weight can be made sparse" in none.reason) == (False, True)


def test_sparse_initializers_are_smaller_run_and_open_again(tmp_path, held_out):
    sparse, dense, again = (tmp_path / f"{name}.onnx" for name in ("sparse", "dense", "again"))
    for store, path in ((Store.SPARSE, sparse), (Store.DENSE, dense)):
        save_model(run(Sparsify(ratio=0.9, method=Method.MAGNITUDE, scope=Scope.LAYER, store=store)).model, path)
    save_model(open_model(sparse), again)
    assert len(onnx.load(sparse).graph.sparse_initializer) >= 7
    assert len(onnx.load(again).graph.sparse_initializer) >= 7
    assert not onnx.load(dense).graph.sparse_initializer
    assert file_bytes(sparse) < 0.4 * file_bytes(dense)
    onnx.checker.check_model(str(sparse))
    got = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": held_out})[0]
        for path in (sparse, dense, again)
    ]
    assert np.array_equal(got[0], got[1])
    assert np.array_equal(got[0], got[2])


def test_half_zeros_are_not_smaller_as_sparse_initializers(tmp_path):
    result = run(Sparsify(ratio=0.5, method=Method.MAGNITUDE, scope=Scope.LAYER, store=Store.SPARSE))
    save_model(result.model, tmp_path / "half.onnx")
    assert not onnx.load(tmp_path / "half.onnx").graph.sparse_initializer


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"ratio": 1.0}, {"pattern": "4:2"}, {"smallest": 0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(BadOptionValue):
        Sparsify(**options)


def test_a_sample_that_is_not_finite_is_named():
    images = np.random.default_rng(0).normal(size=(64, 1, 28, 28)).astype(np.float32)
    images[3, 0, 5, 5] = np.nan
    result = onnxslim.optimize(NET, "sparsify", data={"image": images}, val={"image": images[:2]}, measure=False)
    record = result.report.passes[-1]
    assert not record.kept
    assert "image" in record.reason
    assert "NaN" in record.reason


@pytest.mark.parametrize("store", Store)
def test_a_weight_that_is_an_output_of_the_model_stays(store):
    """A sparse initializer would come out of ONNX Runtime as another type, and a dense one with other numbers."""
    model = built(
        "g (float[N,64] x) => (float[N,32] y, float[64,64] w) { a = MatMul (x, w) r = Relu (a) y = MatMul (r, v) }",
        w=weight(64, 64), v=weight(64, 32),
    )  # fmt: skip
    model.graph.outputs.append(model.graph.initializers["w"])
    model.graph.outputs.pop(1)
    result = onnxslim.optimize(model, ["simplify", Sparsify(ratio=0.9, store=store)], measure=False)
    notes = {note.subject: note.reason for note in result.report.passes[-1].changes}
    assert notes["w"] == "it is an output of the model"
    assert (result.model.graph.initializers["w"].const_value.numpy() != 0).all()
    assert (result.model.graph.initializers["v"].const_value.numpy() == 0).mean() == pytest.approx(0.9, abs=0.01)


def test_packed_weights_of_attention_are_chosen_by_magnitude():
    """Their products are not seen from outside: heads make something else of them."""
    model = built(
        """g (float[N,7,32] x) => (float[N,7,8] y) {
            a = MatMul (x, w) h = Relu (a) q = com.microsoft.Attention <num_heads=4> (h, p, b) y = MatMul (q, v)
        }""",
        w=weight(32, 32), p=weight(32, 96), b=weight(96), v=weight(32, 8),
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(48, 7, 32)).astype(np.float32)
    result = onnxslim.optimize(model, "sparsify", data={"x": x}, val={"x": x[:4]}, measure=False)
    notes = {note.subject: note.action for note in result.report.passes[-1].changes if "zero by" in note.action}
    assert {name: text.split()[-1] for name, text in notes.items()} == {"w": "obs", "p": "magnitude", "v": "obs"}


MLP = built(
    """g (float[N,40] x) => (float[N,5] y) {
        a = MatMul (x, u) h = Relu (a) b = MatMul (h, w) c = Relu (b) d = MatMul (c, w) e = Relu (d) y = MatMul (e, v)
    }""",
    u=weight(40, 160), w=weight(160, 160), v=weight(160, 5),
)  # fmt: skip
DATA = {"x": np.random.default_rng(0).normal(size=(48, 40)).astype(np.float32)}


def sparse(options):
    """Return the model that `sparsify` with these options made, and for each weight what it was chosen by."""
    result = onnxslim.optimize(MLP, f"sparsify:{options}", data=DATA, val=DATA, measure=False)
    held = {name: value.const_value.numpy() for name, value in result.model.graph.initializers.items()}
    actions = {note.subject: note.action for note in result.report.passes[-1].changes if "zero by" in note.action}
    return held, {name: action.split()[-1] for name, action in actions.items()}


def test_a_weight_that_two_layers_share_is_fitted_to_neither():
    _, how = sparse("ratio=0.5")
    assert how == {"u": "obs", "w": "magnitude", "v": "obs"}


def test_groups_that_do_not_divide_a_block_of_columns_stay_whole():
    """160 columns are looked at in blocks of 128, of which 5 is no divisor."""
    held, how = sparse("pattern=3:5")
    assert how["v"] == "obs"
    for name in ("u", "w", "v"):
        groups = held[name].T.reshape(-1, 5)
        assert ((groups != 0).sum(axis=1) == 3).all()


def test_weights_with_too_many_columns_are_chosen_by_magnitude(monkeypatch):
    monkeypatch.setattr("onnxslim.passes.sparsify.COLUMNS", 100)
    _, how = sparse("ratio=0.5")
    assert how == {"u": "obs", "w": "magnitude", "v": "magnitude"}


def test_a_share_of_nearly_all_leaves_one_weight():
    held, _ = sparse("ratio=0.999999:method=magnitude")
    assert sum(np.count_nonzero(array) for array in held.values()) >= 1


def test_weights_are_called_as_in_the_file():
    """Most convolutions take the BatchNormalization behind them in, and get a name of their own."""
    names = [value.name for value in open_model(NET).graph.initializers.values() if len(value.shape) == 4]
    assert len(names) > 7
    result = onnxslim.optimize(NET, f"sparsify:exclude={'+'.join(names)}+nowhere:method=magnitude", measure=False)
    changes = result.report.passes[-1].changes
    zero = [note.subject for note in changes if "zero by" in note.action]
    assert all(len(result.model.graph.initializers[name].const_value.shape) == 2 for name in zero)
    assert ("exclude", "'nowhere' matches nothing") in {(note.subject, note.action) for note in changes}
