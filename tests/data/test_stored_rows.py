"""Samples that are stored as they are are read alone: the same numbers, and no more memory for more of them."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peak_memory import peak_bytes

from onnxslim.data import Samples, open_samples
from onnxslim.errors import DataError
from onnxslim.runtime.session import TensorSpec

IMAGES = (TensorSpec("x", np.dtype(np.float32), ("N", 3, 16, 16)),)
SCALARS = (TensorSpec("x", np.dtype(np.int64), ("N",)),)


def written(folder: pathlib.Path, form: str, count: int) -> tuple[pathlib.Path, np.ndarray]:
    """Return what holds as many images, each of one number, and these numbers."""
    images = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, 3, 16, 16))
    path = folder / f"{form}{count}"
    path.mkdir()
    match form:
        case "npz":
            np.savez(path / "a.npz", labels=np.arange(count), x=images)
        case "compressed":
            np.savez_compressed(path / "a.npz", labels=np.arange(count), x=images)
        case "files":
            for number, part in enumerate(np.array_split(images, 4)):
                np.save(path / f"{number}.npy", part)
        case "fortran":
            np.save(path / "a.npy", np.asfortranarray(images))
    return path, images


@pytest.mark.parametrize("form", ["npz", "compressed", "files", "fortran"])
def test_samples_are_those_that_were_written_in_any_order(tmp_path: pathlib.Path, form: str) -> None:
    path, images = written(tmp_path, form, 21)
    samples = open_samples(path, IMAGES)
    np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in samples.batches(4)]), images)
    drawn = samples.draw(13, np.random.default_rng(1))
    wanted = [drawn.number(index) for index in range(13)]
    assert wanted != sorted(wanted)
    batches = list(drawn.batches(5))
    np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in batches]), images[wanted])
    assert [batch.count for batch in batches] == [5, 5, 3]
    if samples.labelled:
        assert [label for batch in batches for label in batch.labels] == wanted


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.booleans())
def test_any_rows_in_any_order(tmp_path_factory: pytest.TempPathFactory, order: list[int], archive: bool) -> None:
    folder = tmp_path_factory.mktemp("rows")
    path = folder / ("a.npz" if archive else "a.npy")
    if archive:
        np.savez(path, x=np.arange(10) ** 2)
    else:
        np.save(path, np.arange(10) ** 2)
    (batch,) = open_samples(path, SCALARS)._origin.read(np.array(order), 100)
    np.testing.assert_array_equal(batch.feeds["x"], np.array(order) ** 2)


@pytest.mark.parametrize("form", ["npz", "files"])
def test_more_samples_take_no_more_memory(tmp_path: pathlib.Path, form: str) -> None:
    def read(samples: Samples) -> None:
        for batch in samples.draw(samples.count).batches(16):
            assert batch.count == 16

    few, many = (open_samples(written(tmp_path, form, count)[0], IMAGES) for count in (64, 1024))
    assert peak_bytes(lambda: read(many)) < 1.2 * peak_bytes(lambda: read(few))


def test_what_was_damaged_is_told(tmp_path: pathlib.Path) -> None:
    path, _ = written(tmp_path, "npz", 8)
    file = path / "a.npz"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: x.*CRC|CRC.*"):
        open_samples(path, IMAGES).first()


def test_a_file_that_has_become_shorter_is_told(tmp_path: pathlib.Path) -> None:
    path, _ = written(tmp_path, "files", 8)
    samples = open_samples(path, IMAGES)
    (path / "3.npy").write_bytes((path / "3.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match="shorter"):
        list(samples.batches())
