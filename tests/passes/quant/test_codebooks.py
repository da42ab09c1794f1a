"""Codebooks: levels where they serve best, what is written, and that ONNX Runtime looks it up when it opens a model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.scales import Activations
from onnxslim.passes.quant.weight_only.codebooks import POWERS, SIZE, fit_codebook, fit_powers
from onnxslim.passes.quant.weight_only.grids import WeightType, fit_grid
from onnxslim.passes.quant.weight_only.rounding import _rescaled
from onnxslim.passes.quant.weight_only.writing import WeightFormat
from onnxslim.passes.simplify import Simplify
from quantized_models import optimized_ops
from sample_models import from_text
from story import VNNI, make_context, nodes_of

from onnxslim.errors import BadOptionValue
from onnxslim.fit.rounding import output_error
from onnxslim.model import open_model, save_model, weight_bytes
from onnxslim.runtime.session import Session

CODEBOOKS = [WeightType.CODEBOOK, WeightType.POWERS]
HEAD = '<ir_version: 8, opset_import: ["" : 17]> g'


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


MODELS = {
    "Conv": (
        f"{HEAD} (float[N,8,6,6] x) => (float[N,16,6,6] y) {{ y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }}",
        {"w": draw(16, 8, 3, 3), "b": draw(16)},
        {"x": draw(16, 8, 6, 6)},
    ),
    "ConvTranspose": (
        f"{HEAD} (float[N,32,4,4] x) => (float[N,6,6,6] y) {{ y = ConvTranspose (x, w) }}",
        {"w": draw(32, 6, 3, 3)},
        {"x": draw(16, 32, 4, 4)},
    ),
    "MatMul": (
        f"{HEAD} (float[N,64] x) => (float[N,48] y) {{ p = MatMul (x, w) y = Add (p, b) }}",
        {"w": draw(64, 48), "b": draw(48)},
        {"x": draw(64, 64, seed=1)},
    ),
}


def quantize(name, **options):
    text, weights, feeds = MODELS[name]
    model = from_text(text, **weights)
    before = model.clone()
    change = Quant(activations=Activations.FLOAT, **options).run(model, make_context(before, feeds, target=VNNI))
    return before, model, change, feeds


@pytest.mark.parametrize("kind", CODEBOOKS, ids=lambda kind: kind.value)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_outputs_stay_close(name, kind, tmp_path):
    before, after, change, feeds = quantize(name, weights=kind)
    assert change.modified
    assert [layer.after for layer in change.layers] == [4]
    save_model(after, tmp_path / "after.onnx")
    assert (tmp_path / "after.onnx").stat().st_size < sum(array.nbytes for array in MODELS[name][1].values()) / 3
    reference, found = (Session.of(model).run(feeds)["y"] for model in (before, open_model(tmp_path / "after.onnx")))
    assert 10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum()) > 15


def test_golden():
    _, model, change, _ = quantize("Conv", weights=WeightType.CODEBOOK)
    assert nodes_of(model.graph) == [
        "w0 = Cast <to = 6> (w_levels[16, 8, 3, 3])",
        "w1 = Gather (w_table[16], w0)",
        "w2 = Mul (w1, w_scale[16, 1, 1, 1])",
        "y = Conv <pads = (1, 1, 1, 1)> (x, w2, b[16])",
    ]
    assert model.graph.initializers["w_levels"].dtype is ir.DataType.UINT4
    assert model.graph.opset_imports[""] == 21
    assert change.notes[1].action == "codebook of 16 with a scale for each output"


def test_onnx_runtime_looks_levels_up_when_it_opens_a_model(tmp_path):
    _, model, _, _ = quantize("Conv", weights=WeightType.CODEBOOK)
    ops = set(optimized_ops(model, tmp_path))
    assert not ops & {"Gather", "Mul", "Cast"}


def test_scales_are_fitted_anew_behind_the_rounding():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(2, 50, 6)) @ generator.normal(size=(2, 6, 6))
    weight, moment = generator.normal(size=(2, 6, 4)), rows.swapaxes(1, 2) @ rows / 50
    codebook = fit_codebook(np.concatenate(list(weight), axis=1).astype(np.float32))
    flat = codebook.dequantized(codebook.levels(np.concatenate(list(weight), axis=1)))
    rounded = np.stack(np.split(flat.astype(np.float64), 2, axis=1))
    better, found = _rescaled(codebook, weight, rounded, moment)
    errors = [output_error(weight - one, moment) for one in (found, rounded)]
    assert (errors[0] <= errors[1] + 1e-9).all()
    np.testing.assert_allclose(
        better.dequantized(codebook.levels(flat)), np.concatenate(list(found), axis=1), rtol=1e-5, atol=1e-6
    )


def test_simplification_does_not_unfold_it():
    _, model, _, feeds = quantize("Conv", weights=WeightType.CODEBOOK)
    size = weight_bytes(model)
    Simplify().run(model, make_context(model, feeds))
    assert weight_bytes(model) == size


def test_a_tied_table_gets_eight_bits():
    text = f"""{HEAD} (int64[N,5] i) => (float[N,5,40] y) {{
        e = Gather (w, i) t = Transpose <perm = [1, 0]> (w) p = MatMul (e, t) y = MatMul (p, v) }}"""
    model = from_text(text, w=draw(40, 64), v=draw(40, 40))
    step = Quant(activations=Activations.FLOAT, weights=WeightType.CODEBOOK)
    change = step.run(model, make_context(model, {"i": np.zeros((8, 5), np.int64)}, target=VNNI))
    assert sorted(layer.after for layer in change.layers) == [4, 8]


def test_a_codebook_has_no_blocks_and_no_kernel():
    with pytest.raises(BadOptionValue, match="block=32 has no meaning with weights=codebook"):
        Quant(activations=Activations.FLOAT, weights=WeightType.CODEBOOK, block=32)
    _, _, change, _ = quantize("MatMul", weights=WeightType.CODEBOOK, format=WeightFormat.NBITS)
    assert not change.modified


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.sampled_from(["codebook", "powers"]), st.integers(0, 99))
def test_indices_are_those_of_the_nearest_levels(columns, outputs, kind, seed):
    weight = draw(columns, outputs, seed=seed)
    codebook = (fit_codebook if kind == "codebook" else fit_powers)(weight)
    assert codebook.values.shape == (SIZE,)
    assert (np.diff(codebook.values) >= 0).all()
    levels = codebook.levels(weight)
    distances = np.abs(codebook.values[:, None, None] * codebook.scale - weight)
    np.testing.assert_allclose(np.abs(codebook.dequantized(levels) - weight), distances.min(axis=0), atol=1e-5)
    for column in range(columns):
        found = codebook.nearest(column, weight[column].astype(np.float64))
        np.testing.assert_allclose(found, codebook.dequantized(levels)[column], rtol=1e-5, atol=1e-6)


def test_levels_lie_closer_than_equal_steps_for_weights_as_they_are():
    weight = draw(256, 32)
    errors = [
        np.square(made.dequantized(made.levels(weight)) - weight).sum()
        for made in (fit_codebook(weight), fit_grid(weight, 4, 0, symmetric=False), fit_powers(weight))
    ]
    assert errors == sorted(errors)


def test_what_counts_more_gets_more_levels():
    weight = np.concatenate([draw(64, 8), 10 * draw(64, 8, seed=1)]).astype(np.float32)
    importance = np.repeat([100.0, 1e-3], 64)
    small = [
        np.square(made.dequantized(made.levels(weight)) - weight)[:64].sum()
        for made in (fit_codebook(weight, importance), fit_codebook(weight))
    ]
    assert small[0] < small[1] / 4


def test_powers_are_powers():
    assert len(set(POWERS.tolist())) == SIZE
    assert all(power == 0 or np.log2(abs(power)).is_integer() for power in POWERS.tolist())


@pytest.mark.parametrize("fit", [fit_codebook, fit_powers])
def test_zeros_stay_zeros(fit):
    zeros = np.zeros((4, 3), np.float32)
    codebook = fit(zeros)
    assert not codebook.dequantized(codebook.levels(zeros)).any()
