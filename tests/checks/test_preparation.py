"""Wrong preprocessing is named where BatchNormalizations remember the right one; right data raises no alarm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text
from zoo import MODELS, zoo_file

from onnxslim.checks.mistakes import NORMALISATIONS, exchanged_as_well, exchanged_channels, wrong_ranges
from onnxslim.checks.normalisation import Gauge, find_stored
from onnxslim.checks.preparation import GLANCE, PARTS, Prepared, check_preparation
from onnxslim.data import Batch
from onnxslim.diagnostic import Diagnostic
from onnxslim.model import open_model
from onnxslim.runtime.session import Session

RESNET8 = MODELS / "fashion_resnet8.onnx"
MEAN, STD = 0.2860, 0.3530


def batches(images: np.ndarray, name: str = "image") -> list[Batch]:
    size = max(1, len(images) // PARTS)
    parts = [images[at : at + size] for at in range(0, len(images), size)]
    return [Batch({name: np.ascontiguousarray(part, np.float32)}, None, len(part)) for part in parts]


def checked(model: ir.Model, images: np.ndarray, name: str = "image") -> list[Diagnostic]:
    return check_preparation(model, batches(images, name), Session.of, 0)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    with np.load(MODELS / "fashion_calib.npz") as file:
        return file["image"].astype(np.float32) / 255


@pytest.fixture(scope="module")
def resnet8() -> ir.Model:
    return open_model(RESNET8)


@pytest.mark.parametrize("count", [8, 64, 256])
def test_right_data_raises_no_alarm(resnet8: ir.Model, pixels: np.ndarray, count: int) -> None:
    right = (pixels - MEAN) / STD
    for seed in range(5):
        drawn = np.random.default_rng(seed).choice(len(right), count, replace=False)
        assert checked(resnet8, right[drawn]) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda pixels: pixels * 255, "pixels of 0 to 255 where 0 to 1, normalised, is wanted"),
        (lambda pixels: (pixels * 255 - MEAN) / STD, "pixels of 0 to 255 were normalised as if they were 0 to 1"),
        (lambda pixels: pixels, "pixels of 0 to 1 that were not normalised"),
        (lambda pixels: pixels / STD, "the mean was not subtracted"),
        (lambda pixels: ((pixels - MEAN) / STD - MEAN) / STD, "normalised once too often"),
    ],
    ids=["0 to 255", "normalised 0 to 255", "0 to 1", "no mean", "twice"],
)
@pytest.mark.parametrize("count", [8, 64])
def test_what_is_wrong_with_the_range_is_named(
    resnet8: ir.Model, pixels: np.ndarray, wrong: Callable[[np.ndarray], np.ndarray], says: str, count: int
) -> None:
    (found,) = checked(resnet8, wrong(pixels[:count]))
    assert found.code == "inputs-do-not-fit"
    assert says in found.message


def test_the_order_of_colours_is_told_from_256_samples() -> None:
    path = zoo_file("onnx", "cifar10_resnet20.onnx")
    usual = NORMALISATIONS[0]
    mean, std = (np.float32(each).reshape(3, 1, 1) for each in (usual.mean, usual.std))
    with np.load(zoo_file("data", "cifar10_train_10k.npz")) as file:
        images = file["x"][np.random.default_rng(0).permutation(10000)[:256]].transpose(0, 3, 1, 2) / np.float32(255)
    model = open_model(path)
    name = Session.of(path).inputs[0].name
    assert checked(model, (images - mean) / std, name) == []
    (after,) = checked(model, ((images - mean) / std)[:, ::-1], name)
    (before,) = checked(model, (images[:, ::-1] - mean) / std, name)
    assert "in the other order" in after.message
    assert after.hint == "exchange the first and the last channel"
    assert before.hint == "exchange the first and the last channel before ImageNet's mean and std are applied"


def test_greyscale_images_have_no_order_of_colours() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    agraph (float[N, 3, 8, 8] image) => (float[N, 3, 8, 8] y) {
        y = BatchNormalization(image, scale, bias, mean, variance)
    }"""
    weights = {"scale": np.ones(3), "bias": np.zeros(3), "mean": np.zeros(3), "variance": np.array([1.2, 2, 2.4])}
    model = from_text(text, **{name: array.astype(np.float32) for name, array in weights.items()})
    grey = np.repeat(np.random.default_rng(0).normal(0, 1.4, (64, 1, 8, 8)), 3, 1)
    assert checked(model, grey) == []
    coloured = grey * np.sqrt(np.array([1.2, 1.0, 0.6])).reshape(1, 3, 1, 1)
    assert checked(model, coloured)[0].hint == "exchange the first and the last channel"
    assert checked(model, coloured[:, ::-1]) == []


def test_a_model_without_what_it_saw_in_training_is_not_asked(pixels: np.ndarray) -> None:
    folded = from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 1, 28, 28] image) => (float[N, 1, 28, 28] y) { y = Relu(image) }"""
    )
    assert checked(folded, pixels[:8] * 1000) == []
    fresh = from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N, 1, 28, 28] image) => (float[N, 1, 28, 28] y) {
            y = BatchNormalization(image, scale, bias, mean, variance)
        }""",
        **{
            name: np.full(1, value, np.float32)
            for name, value in {"scale": 1, "bias": 0, "mean": 0, "variance": 1}.items()
        },
    )
    assert find_stored(fresh) == []
    assert checked(fresh, pixels[:8] * 1000) == []


def test_what_no_mistake_explains_is_told_without_a_name(resnet8: ir.Model, pixels: np.ndarray) -> None:
    (found,) = checked(resnet8, np.random.default_rng(0).normal(40, 5, pixels[:64].shape))
    assert found.code == "inputs-do-not-fit"
    assert "look as if" not in found.message


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mistake_is_undone_by_its_correction(channels: int) -> None:
    right = np.random.default_rng(0).normal(0, 1, (2, channels, 5, 4))
    plain = list(wrong_ranges(channels))
    for mistake in [*plain, *map(exchanged_as_well, plain), *exchanged_channels()]:
        if mistake.folded or len(mistake.scale) > channels:
            continue
        scale, shift = (np.float64(each).reshape(1, -1, 1, 1) for each in (mistake.scale, mistake.shift))
        wrong = (right - shift) / scale
        wrong = wrong[:, ::-1] if mistake.reversed else wrong
        np.testing.assert_allclose(mistake.correct(wrong.astype(np.float32)), right, atol=2e-3, err_msg=mistake.found)
    pixels = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3)
    folded = next(each for each in wrong_ranges(3) if each.folded)
    np.testing.assert_array_equal(folded.correct(pixels.reshape(2, 3, 5, 4)), pixels.transpose(0, 3, 1, 2))


def test_the_distance_is_that_of_normal_distributions(resnet8: ir.Model, pixels: np.ndarray) -> None:
    gauge = Gauge(resnet8, Session.of, layers=1)
    given = gauge(batches((pixels[:32] - MEAN) / STD))
    (stored,) = gauge.stored
    mean = given.counts @ given.means[0] / 32
    variance = given.counts @ given.squares[0] / 32 - mean**2 + stored.epsilon
    one = np.log(stored.variance / variance) / 2 + (variance + (mean - stored.mean) ** 2) / (2 * stored.variance) - 0.5
    np.testing.assert_allclose(gauge.distances(given), [one.mean()], rtol=1e-6)
    np.testing.assert_allclose(gauge.distances(given, np.ones((2, 16))), [[one.mean()]] * 2, rtol=1e-6)


@pytest.mark.parametrize(("edge", "size", "count"), [(8, 3, 6), (8, 16, 1), (640, 3, 2), (640, 1, GLANCE[0])])
def test_mistakes_are_compared_on_few_samples_of_large_images(edge: int, size: int, count: int) -> None:
    images = np.zeros((48, 3, edge, edge), np.float32) if edge < 100 else np.zeros((12, 3, edge, edge), np.float32)
    own = [Batch({"x": images[at : at + size]}, None, size) for at in range(0, len(images), size)]
    model = from_text("""<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,H,W] x) => (float[N,3,H,W] y) {
        y = Relu (x) }""")
    few = Prepared(Gauge(model, Session.of), own, "x").glance()
    assert len(few.batches) == count
    assert sum(batch.count for batch in few.batches) >= GLANCE[0]
