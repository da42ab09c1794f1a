"""What reverse mode starts from: the gradient of the loss of labels, or one whose mean square says what it should."""

from __future__ import annotations

import numpy as np
import pytest
from sample_models import from_text

from onnxslim.train.seeds import OutputSeed, output_seeds

SOFTMAX = from_text("g (float[N,3] x) => (float[N,3] y) { z = Relu (x) y = Softmax <axis = 1> (z) }")
LOGITS = np.array([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]], np.float32)
SHARES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


def generators(count: int, place: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([1, place + number]) for number in range(count)]


def test_labels_give_the_gradient_of_the_cross_entropy() -> None:
    seed = OutputSeed("z", 1, labelled=True)(LOGITS, np.array([2, 0]), generators(2))
    np.testing.assert_allclose(seed, SHARES - np.eye(3)[[2, 0]], rtol=1e-6)


def test_what_is_no_class_has_no_loss() -> None:
    made = np.moveaxis(np.stack([LOGITS, LOGITS]), 2, 1)  # [samples, classes, positions]
    seed = OutputSeed("z", 1, labelled=True)(made, np.array([[2, -1], [255, 0]]), generators(2))
    np.testing.assert_allclose(seed[0, :, 0], SHARES[0] - [0, 0, 1], rtol=1e-6)
    assert not seed[0, :, 1].any()
    assert not seed[1, :, 0].any()


def test_labels_are_drawn_from_the_distribution() -> None:
    count = 4000
    seed = OutputSeed("z", 1)(np.repeat(LOGITS[:1], count, axis=0), None, generators(count))
    drawn = (np.round(SHARES[:1] - seed)).mean(axis=0)
    np.testing.assert_allclose(drawn, SHARES[0], atol=0.03)
    np.testing.assert_allclose(seed.mean(axis=0), 0, atol=0.03)


def test_directions_are_as_long_as_the_output_is_wide() -> None:
    made = np.zeros((500, 8), np.float32)
    seed = OutputSeed("y", size=2.0)(made, None, generators(500))
    np.testing.assert_allclose((seed.T @ seed) / 500, np.eye(8) / 4, atol=0.06)


@pytest.mark.parametrize("axis", [None, 1])
def test_what_is_drawn_for_a_sample_does_not_depend_on_its_batch(axis: int | None) -> None:
    made = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    whole = OutputSeed("y", axis)(made, None, generators(5))
    parts = [OutputSeed("y", axis)(made[at : at + 1], None, generators(1, at)) for at in range(5)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_labels_say_which_output_is_a_distribution() -> None:
    text = "g (float[N,3] x, float[3,5] w) => (float[N,3] y, float[N,5] z) { y = Relu (x) z = MatMul (x, w) }"
    model = from_text(text, w=np.ones((3, 5), np.float32))
    made = {"y": np.zeros((2, 3), np.float32), "z": np.zeros((2, 5), np.float32), "text": ["one", "two"]}
    assert output_seeds(model.graph, made, np.array([4, 0]), {}) == [OutputSeed("z", -1, labelled=True)]
    assert output_seeds(model.graph, made, np.array([4.5, 0.1]), {"z": 3.0}) == [
        OutputSeed("y"), OutputSeed("z", size=3.0),
    ]  # fmt: skip


def test_a_softmax_is_a_distribution_without_labels() -> None:
    assert output_seeds(SOFTMAX.graph, {"y": SHARES}, None, {}) == [OutputSeed("z", 1)]
