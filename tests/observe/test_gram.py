"""Sums of what contractions read against outputs computed by ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from peak_memory import peak_bytes
from sample_models import from_text

from onnxslim.analysis.contraction import contractions
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples
from onnxslim.observe.gram import RIDGE, Sums, Thin, _stream_rows, joined_moments, measurable, sums, thin_moments
from onnxslim.runtime.session import Session


def net(body, x="float[N,4,5,5] x", **weights):
    model = from_text(f'<ir_version: 8, opset_import: ["" : 17]> g ({x}, float[1] w) => (y) {{ {body} }}', **weights)
    infer_shapes(model)
    (contraction,) = contractions(model.graph)
    return model, contraction


CASES = [
    ("y = Conv <pads = [1, 0, 0, 1], strides = [2, 1]> (x, w)", "float[N,4,5,5] x", (6, 4, 3, 2)),
    ("y = Conv <dilations = [2, 2], group = 2> (x, w)", "float[N,4,5,5] x", (6, 2, 2, 2)),
    ('y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)', "float[N,4,5,5] x", (6, 4, 3, 3)),
    ("a = Relu (x) y = Conv (a, w)", "float[N,4,5,5] x", (6, 4, 3, 3)),
    ("y = Conv <group = 4> (x, w)", "float[N,4,5,5] x", (4, 1, 3, 3)),
    ("y = Conv (x, w)", "float[N,4,9] x", (6, 4, 3)),
    ("y = MatMul (x, w)", "float[N,3,8] x", (8, 6)),
    ("y = Gemm <transB = 1> (x, w)", "float[N,8] x", (6, 8)),
]


@pytest.mark.parametrize(("body", "x", "shape"), CASES)
def test_outputs_squared_are_weights_times_gram(body, x, shape):
    generator = np.random.default_rng(0)
    model, contraction = net(body, x, w=generator.standard_normal(shape).astype(np.float32))
    sizes = [int(size) for size in x[x.index("[") + 3 : x.index("]")].split(",")]
    data = generator.standard_normal((3, *sizes)).astype(np.float32)
    session = Session.of(model)
    samples = open_samples({"x": data}, session.inputs)
    assert measurable(contraction)
    (total,) = sums(model, [contraction], samples, 100, generator, Session.of)
    outputs = session.run({"x": data})["y"].astype(np.float64)
    weight = contraction.blocks()
    assert total.rows * contraction.outputs == outputs.size
    energy = np.einsum("gco,gcd,gdo->", weight, total.products, weight)
    assert energy == pytest.approx(float(np.square(outputs).sum()), rel=1e-4)
    assert np.einsum("gc,gco->", total.inputs, weight) == pytest.approx(float(outputs.sum()), rel=1e-3, abs=1e-2)


def test_as_many_places_as_asked_for_are_seen():
    generator = np.random.default_rng(0)
    model, contraction = net("y = Conv (x, w)", w=np.ones((6, 4, 2, 2), np.float32))
    samples = open_samples({"x": generator.standard_normal((3, 4, 5, 5)).astype(np.float32)}, Session.of(model).inputs)
    (total,) = sums(model, [contraction], samples, 5, generator, Session.of)
    assert total.rows == 3 * 5


def test_overlapping_windows_of_the_output_cannot_be_seen():
    _, contraction = net("y = ConvTranspose (x, w)", w=np.ones((4, 6, 2, 2), np.float32))
    assert not measurable(contraction)


def test_rows_far_from_zero_are_told_apart():
    rows = (1000 + 0.05 * np.random.default_rng(0).standard_normal((1, 400, 4))).astype(np.float32)
    total = Sums(np.zeros((1, 4, 4)), np.zeros((1, 4)))
    total.add(rows[:, :100])
    total.add(rows[:, 100:])
    (moment,), _ = total.moments()
    np.testing.assert_allclose(moment, np.cov(rows[0].T.astype(np.float64)), atol=1e-4)


def test_an_input_that_has_a_value_of_its_own_need_not_be_given():
    model = from_text(
        '<ir_version: 10, opset_import: ["" : 17]> g (float[N,3] x, float[2,4] c, float w) => (float[N,3] y) {'
        " a = MatMul (c, w) b = ReduceMax (a) y = Mul (x, b) }",
        w=np.ones((4, 3), np.float32),
        c=np.ones((2, 4), np.float32),
    )
    model.graph.inputs.insert(1, model.graph.initializers["c"])
    infer_shapes(model)
    (contraction,) = contractions(model.graph)
    samples = open_samples({"x": np.ones((3, 3), np.float32)}, Session.of(model).inputs)
    (total,) = sums(model, [contraction], samples, 100, np.random.default_rng(0), Session.of)
    np.testing.assert_array_equal(total.products[0], total.rows)


def test_rows_that_are_held_say_what_their_sums_say():
    """Fewer rows than columns: the ridge grows by what is missing."""
    rows = np.random.default_rng(0).standard_normal((2, 10, 30)).astype(np.float32)
    total = Sums(np.zeros((2, 30, 30)), np.zeros((2, 30)))
    total.add(rows)
    thin, dense = thin_moments([rows[:, :4], rows[:, 4:]])[0], total.moments()[0]
    for few, whole, own in zip(thin, dense, rows, strict=True):
        assert isinstance(few, Thin)
        np.testing.assert_allclose(few.rows.T @ few.rows + few.ridge * np.eye(30), whole, atol=1e-5)
        covariance = np.cov(own.T.astype(np.float64), bias=True)
        added = np.diag(np.asarray(whole)) - np.diag(covariance)
        np.testing.assert_allclose(added, 3 * RIDGE * np.trace(covariance) / 30, rtol=1e-3)


def test_moments_of_contractions_that_share_a_weight_are_those_of_all_their_rows():
    generator = np.random.default_rng(0)
    rows = [generator.normal(size=(2, count, 3)) + 1 for count in (5, 9)]

    def parts() -> list[Sums]:
        made = [Sums(np.zeros((2, 3, 3)), np.zeros((2, 3))) for _ in rows]
        for total, piece in zip(made, rows, strict=True):
            total.add(piece.astype(np.float32))
        return made

    together = np.concatenate(rows, axis=1)
    plain = joined_moments(parts(), about_mean=False)
    np.testing.assert_allclose(plain, together.swapaxes(1, 2) @ together / 14, rtol=1e-4)
    centred = [piece - piece.mean(axis=1, keepdims=True) for piece in rows]
    wanted = sum(piece.swapaxes(1, 2) @ piece for piece in centred) / 14
    np.testing.assert_allclose(joined_moments(parts(), about_mean=True), wanted, rtol=1e-3, atol=1e-5)


def test_a_mean_of_products_is_made_in_their_place() -> None:
    total = Sums(np.zeros((1, 1500, 1500)), np.zeros((1, 1500)), rows=1)
    assert peak_bytes(lambda: joined_moments([total], about_mean=True)) < 0.4 * total.products.nbytes


def test_windows_of_few_samples_at_a_time_are_in_memory() -> None:
    """A batch of 32 has 32 x 784 windows of 36 numbers, and 288 of them are more than there are columns."""
    body, x = "y = Conv <pads = [1, 1, 1, 1]> (x, w)", "float[N,4,28,28] x"
    model, contraction = net(body, x, w=np.ones((6, 4, 3, 3), np.float32))
    images = np.random.default_rng(0).standard_normal((64, 4, 28, 28)).astype(np.float32)
    samples = open_samples({"x": images}, Session.of(model).inputs)
    generator, pieces = np.random.default_rng(0), []
    for _, rows in _stream_rows(model, [contraction], samples, 784, generator, Session.of):
        pieces.append(rows.shape[1])
    assert sum(pieces) == 64 * 784
    assert max(pieces) == 784, "of one sample"
