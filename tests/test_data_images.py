"""Folders of images, and how an image becomes an input."""

import pathlib
import sys

import numpy as np
import pytest

from onnxslim.data import open_samples
from onnxslim.data.preprocess import Preprocess, parse_preprocess, preprocessor
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.runtime.session import TensorSpec

Image = pytest.importorskip("PIL.Image")

FLOAT = np.dtype(np.float32)
NCHW = TensorSpec("image", FLOAT, ("N", 3, 4, 6))
NHWC = TensorSpec("image", FLOAT, ("N", 4, 6, 3))
GRAY = TensorSpec("image", FLOAT, ("N", 1, 4, 6))
BYTES = TensorSpec("image", np.dtype(np.uint8), (2, 3, None, None))
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def image() -> "Image.Image":
    return Image.fromarray(PIXELS)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Three classes, one of them without images."""
    for name, count in (("shoe", 2), ("bag", 1), ("coat", 0)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.fromarray(PIXELS + index).save(tmp_path / name / f"{index}.png")
    (tmp_path / "notes.txt").write_text("ignored")
    return tmp_path


def test_subfolders_are_labels_in_the_order_of_their_names(folder: pathlib.Path) -> None:
    samples = open_samples(folder, (NCHW,), preprocess="mean=0.5:std=0.25")
    assert (samples.count, samples.labelled) == (3, True)
    assert "3 subfolders as labels" in samples.source
    (batch,) = samples.batches(3)
    assert batch.labels.tolist() == [0, 2, 2]  # bag, coat, shoe
    assert batch.feeds["image"].shape == (3, 3, 4, 6)
    np.testing.assert_allclose(
        batch.feeds["image"][0], (PIXELS.transpose(2, 0, 1) / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-5
    )


def test_a_flat_folder_has_no_labels(tmp_path: pathlib.Path) -> None:
    image().save(tmp_path / "1.png")
    samples = open_samples(tmp_path, (NCHW,), preprocess="layout=nchw")
    assert (samples.count, samples.labelled, samples.source) == (1, False, str(tmp_path))
    assert samples.first()["image"].max() <= 1.0


def test_a_fixed_batch_takes_that_many_images(folder: pathlib.Path) -> None:
    samples = open_samples(folder, (BYTES,), preprocess="color=rgb")
    assert samples.count == 2
    (batch,) = samples.batches()
    assert batch.feeds["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch.feeds["image"][0], PIXELS.transpose(2, 0, 1))


def test_images_can_be_split(folder: pathlib.Path) -> None:
    one, other = open_samples(folder, (NCHW,), preprocess="layout=nchw").split(0.34)
    assert (one.count, other.count) == (1, 2)
    assert len(list(other.batches())) == 2


def test_nobody_guesses_the_normalisation(folder: pathlib.Path) -> None:
    with pytest.raises(DataError, match="nobody said") as caught:
        open_samples(folder, (NCHW,))
    assert "--preprocess" in caught.value.hint


def test_images_feed_one_input(folder: pathlib.Path) -> None:
    with pytest.raises(DataError, match="feed one input"):
        open_samples(folder, (NCHW, GRAY), preprocess="size=4")


def test_without_pillow_there_is_a_hint(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(DataError, match="needs Pillow") as caught:
        open_samples(folder, (NCHW,), preprocess="size=4x6")
    assert "[images]" in caught.value.hint


def test_an_image_that_is_none_is_named(folder: pathlib.Path) -> None:
    (folder / "bag" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bag/0\.png.*cannot be read"):
        open_samples(folder, (NCHW,), preprocess="size=4x6").first()


def test_images_that_come_out_in_the_wrong_size_are_named(folder: pathlib.Path) -> None:
    with pytest.raises(DataError, match="5 is not 4"):
        open_samples(folder, (NCHW,), preprocess="size=5x6").first()


def test_the_text_form_reads() -> None:
    text = "size=224x192:mean=0.485/0.456/0.406:std=0.229/0.224/0.225:layout=NHWC:color=bgr:resample=bicubic:crop=200"
    assert parse_preprocess(text) == Preprocess(
        (224, 192), (200,), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0, "nhwc", "bgr", "bicubic"
    )
    assert parse_preprocess("") == Preprocess()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sise=224", "no key 'sise'"),
        ("size=big", "size cannot be 'big'"),
        ("size=0", "size cannot be '0'"),
        ("size=1x2x3", "height x width"),
        ("mean=a/b", "mean cannot be"),
        ("layout=hwcn", "one of nchw, nhwc"),
        ("color=cmyk", "one of rgb, bgr, gray"),
        ("std=0", "cannot be 0"),
        ("scale=0", "cannot be 0"),
    ],
)
def test_the_text_form_is_checked(text: str, says: str) -> None:
    with pytest.raises(BadOptionValue, match=says):
        parse_preprocess(text)


def test_values_must_fit_the_channels_and_the_type() -> None:
    with pytest.raises(BadOptionValue, match="2 values for 3 channels"):
        preprocessor("mean=0.1/0.2", NCHW)
    with pytest.raises(BadOptionValue, match="input of floats"):
        preprocessor("mean=0.1", BYTES)
    with pytest.raises(DataError, match="no image"):
        preprocessor("size=2", TensorSpec("x", FLOAT, ("N", 3)))


def test_layout_and_color_follow_the_input() -> None:
    assert preprocessor("scale=255", NCHW)(image()).shape == (3, 4, 6)
    assert preprocessor("scale=255", NHWC)(image()).shape == (4, 6, 3)
    assert preprocessor("scale=255", GRAY)(image()).shape == (1, 4, 6)
    unknown = TensorSpec("x", FLOAT, (None, None, None, None))
    np.testing.assert_array_equal(preprocessor("scale=1", unknown)(image()), PIXELS.transpose(2, 0, 1))


def test_colors_can_be_turned_round() -> None:
    bgr = preprocessor("scale=1:color=bgr:layout=nhwc", TensorSpec("x", FLOAT, ("N", 4, 6, 3)))(image())
    np.testing.assert_array_equal(bgr, PIXELS[..., ::-1])


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("size=8x12", (3, 8, 12)),
        ("size=8", (3, 8, 12)),
        ("size=8:crop=8", (3, 8, 8)),
        ("crop=2x4", (3, 2, 4)),
        ("size=4x4:resample=nearest", (3, 4, 4)),
    ],
)
def test_size_and_crop(text: str, shape: tuple[int, ...]) -> None:
    assert preprocessor(text, TensorSpec("x", FLOAT, ("N", 3, None, None)))(image()).shape == shape


def test_a_crop_is_the_centre() -> None:
    cropped = preprocessor("crop=2x4:scale=1", TensorSpec("x", FLOAT, ("N", 3, None, None)))(image())
    np.testing.assert_array_equal(cropped, PIXELS[1:3, 1:5].transpose(2, 0, 1))


def test_a_function_of_ones_own(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mypreprocess.py").write_text(
        "import numpy as np\n"
        "def prepare(image):\n    return np.full((1, 3, 4, 6), image.width, np.float32)\n"
        "def fails(image):\n    raise ValueError('too dark')\n"
    )
    monkeypatch.chdir(folder)
    feeds = open_samples(folder, (NCHW,), preprocess="mypreprocess:prepare").first()
    assert (feeds["image"] == 6).all()
    with pytest.raises(DataError, match="too dark"):
        open_samples(folder, (NCHW,), preprocess="mypreprocess:fails").first()
