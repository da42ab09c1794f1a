"""The forms of --data: what each gives, and how each refuses what does not fit."""

import pathlib
import sys

import fsspec
import ml_dtypes
import numpy as np
import pytest

from onnxslim.data import Samples, open_samples, sources
from onnxslim.errors import BadOptionValue, DataError
from onnxslim.runtime.session import TensorSpec

FLOAT = np.dtype(np.float32)
IMAGE = (TensorSpec("image", FLOAT, ("N", 1, 2, 2)),)
FIXED = (TensorSpec("x", FLOAT, (4, 3)),)
RECURRENT = (
    TensorSpec("input", FLOAT, (None, None)),
    TensorSpec("state", FLOAT, (2, None, 5)),
    TensorSpec("sr", np.dtype(np.int64), ()),
)
TEN = np.arange(40, dtype=np.float32).reshape(10, 1, 2, 2)


def values(samples: Samples, name: str = "image", size: int | None = None) -> list[np.ndarray]:
    return [batch.feeds[name] for batch in samples.batches(size)]


@pytest.fixture
def npz(tmp_path: pathlib.Path) -> pathlib.Path:
    np.savez(tmp_path / "ten.npz", image=TEN, labels=np.arange(10))
    return tmp_path / "ten.npz"


def test_an_npz_is_a_row_a_sample(npz: pathlib.Path) -> None:
    samples = open_samples(npz, IMAGE)
    assert (samples.count, samples.labelled, samples.synthetic, samples.source) == (10, True, False, str(npz))
    batches = list(samples.batches(4))
    assert [batch.count for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batch.feeds["image"] for batch in batches]), TEN)
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [len(array) for array in values(samples)] == [1] * 10
    assert samples.first(3)["image"].shape == (3, 1, 2, 2)


def test_every_form_can_be_read_again(npz: pathlib.Path) -> None:
    samples = open_samples(npz, IMAGE)
    np.testing.assert_array_equal(values(samples), values(samples))


def test_an_array_is_read_when_it_is_needed(npz: pathlib.Path) -> None:
    samples = open_samples(npz, IMAGE)
    npz.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        samples.first()


def test_scaled_storage() -> None:
    stored = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    scaled = {"image": stored, "image.scale": 0.5, "image.offset": np.full((1, 1, 1), -1.0)}
    first = open_samples(scaled, IMAGE).first(2)["image"]
    assert first.dtype == FLOAT
    np.testing.assert_array_equal(first, stored * 0.5 - 1)
    plain = open_samples({"image": stored, "image.scale": np.float32(2)}, IMAGE).first(2)["image"]
    np.testing.assert_array_equal(plain, stored * 2.0)


def test_the_only_array_may_have_another_name() -> None:
    samples = open_samples({"x": TEN.astype(np.uint8), "x.scale": 2.0, "labels": np.arange(10)}, IMAGE)
    np.testing.assert_array_equal(samples.first(10)["image"], TEN * 2)
    with pytest.raises(DataError, match="no array for the input 'image'"):
        open_samples({"x": TEN, "y": TEN}, IMAGE)


def test_whole_inputs_lie_along_one_axis_more() -> None:
    samples = open_samples({"image": TEN.reshape(5, 2, 1, 2, 2), "labels": np.arange(10)}, IMAGE)
    assert samples.count == 5
    batches = list(samples.batches(3))
    assert [batch.feeds["image"].shape for batch in batches] == [(2, 1, 2, 2)] * 5
    assert [batch.labels.tolist() for batch in batches][:2] == [[0, 1], [2, 3]]


def test_a_fixed_batch_is_filled_and_the_rest_left_out() -> None:
    rows = np.arange(33, dtype=np.float32).reshape(11, 3)
    samples = open_samples({"x": rows, "labels": np.arange(11)}, FIXED)
    assert samples.count == 8
    batches = list(samples.batches(1))
    assert [batch.count for batch in batches] == [4, 4]
    np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in batches]), rows[:8])
    assert samples.draw(3).count == 4
    one, other = samples.split(0.5)
    assert (one.count, other.count) == (4, 4)
    with pytest.raises(DataError, match="do not fill a batch"):
        open_samples({"x": rows[:3]}, FIXED)
    with pytest.raises(DataError, match="divided in two"):
        samples.draw(4).split(0.5)


def test_rows_for_an_input_of_unknown_rank_are_shared_out_among_runs() -> None:
    inputs = (*RECURRENT[:2], TensorSpec("any", FLOAT, ()))
    arrays = {"input": np.zeros((6, 4)), "state": np.zeros((4, 3, 5)), "any": np.arange(16.0).reshape(8, 2)}
    samples = open_samples(arrays, inputs)
    assert samples.count == 2
    assert [feeds.shape for feeds in values(samples, "any")] == [(4, 2), (4, 2)]


def test_inputs_of_unlike_batches_are_one_run_a_sample() -> None:
    arrays = {"input": np.arange(30, dtype=np.float32).reshape(6, 5), "sr": 16000}
    arrays["state"] = np.arange(6 * 2 * 5, dtype=np.float32).reshape(12, 1, 5)
    samples = open_samples({**arrays, "labels": np.arange(6)}, RECURRENT)
    assert samples.count == 6
    batches = list(samples.batches(4))
    assert len(batches) == 6
    assert {name: array.shape for name, array in batches[0].feeds.items()} == {
        "input": (1, 5),
        "state": (2, 1, 5),
        "sr": (),
    }
    np.testing.assert_array_equal(batches[2].feeds["state"], arrays["state"][4:6])
    assert batches[2].labels.tolist() == [2]
    whole = open_samples({**arrays, "state": arrays["state"].reshape(6, 2, 1, 5), "sr": np.full(6, 8000)}, RECURRENT)
    np.testing.assert_array_equal(whole.first()["state"], arrays["state"][:2])
    assert whole.first()["sr"] == 8000
    doubled = open_samples({**arrays, "input": np.ones((12, 5), np.float32)}, RECURRENT)
    assert doubled.first()["input"].shape == (2, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_, np.int32, np.int64])
def test_a_scalar_input_gets_one_value_a_sample(dtype: type) -> None:
    given = np.array([0, 1, 1, 0], dtype)
    samples = open_samples({"image": TEN[:4], "scale": given}, (*IMAGE, TensorSpec("scale", np.dtype(dtype), ())))
    fed = [batch.feeds["scale"] for batch in samples.batches(3)]
    assert all(isinstance(each, np.ndarray) and each.shape == () and each.dtype == dtype for each in fed)
    assert [each.item() for each in fed] == given.tolist()


def test_an_input_of_unknown_rank_takes_rows() -> None:
    samples = open_samples({"x": np.ones((3, 4), np.float32)}, (TensorSpec("x", FLOAT, ()),))
    assert samples.first()["x"].shape == (1, 4)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (np.float64, np.float32),
        (np.float32, np.float16),
        (np.float32, ml_dtypes.bfloat16),
        (np.int64, np.int32),
        (np.int32, np.int64),
        (np.uint8, np.int64),
        (np.bool_, np.bool_),
        (np.bool_, np.int64),
    ],
)
def test_values_that_survive_are_converted(stored, wanted) -> None:
    feed = open_samples({"x": np.ones((2, 3), stored)}, (TensorSpec("x", np.dtype(wanted), ("N", 3)),)).first(2)["x"]
    assert feed.dtype == wanted
    assert feed.flags.c_contiguous
    assert (feed == 1).all()


@pytest.mark.parametrize(
    ("stored", "wanted", "hint"),
    [
        (np.uint8, np.float32, "x.scale"),
        (np.float32, np.int64, None),
        (np.int64, np.bool_, None),
        (np.complex64, np.float32, None),
        (np.float32, ml_dtypes.int4, None),
    ],
)
def test_values_that_would_change_their_meaning_are_refused(stored, wanted, hint: str | None) -> None:
    with pytest.raises(DataError, match="cannot be fed") as caught:
        open_samples({"x": np.ones((2, 3), stored)}, (TensorSpec("x", np.dtype(wanted), ("N", 3)),))
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("array", "wanted"),
    [(np.array([2**40]), np.int32), (np.array([-1]), np.uint8), (np.array([1e39]), np.float32)],
)
def test_values_out_of_range_are_found_when_they_are_read(array: np.ndarray, wanted) -> None:
    samples = open_samples({"x": array}, (TensorSpec("x", np.dtype(wanted), ("N",)),))
    with pytest.raises(DataError, match="do not fit"):
        samples.first()


def test_nan_and_infinity_are_values_too() -> None:
    samples = open_samples({"x": np.array([np.nan, np.inf])}, (TensorSpec("x", FLOAT, ("N",)),))
    assert np.isnan(samples.first()["x"]).all()


def test_strings_feed_string_inputs(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.array(["a", "bc"]))
    feed = open_samples(tmp_path / "s.npz", (TensorSpec("x", np.dtype(object), ("N",)),)).first(2)["x"]
    assert feed.tolist() == ["a", "bc"]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "no array for the input 'image'"),
        ({"image": TEN, "extra": TEN}, "'extra' belongs to no input"),
        ({"image": TEN[0]}, "does not fit an input of shape"),
        ({"image": np.ones((10, 3, 2, 2), np.float32)}, "3 is not 1"),
        ({"image": TEN, "labels": np.arange(9)}, "9 labels for 10 samples"),
        ({"image": TEN, "image.offset": 1.0}, "offset without a scale"),
        ({"image": TEN[:0]}, "not a single sample"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_samples(arrays, IMAGE)


def test_arrays_of_different_lengths_are_named() -> None:
    inputs = (TensorSpec("a", FLOAT, ("N",)), TensorSpec("b", FLOAT, ("N",)))
    with pytest.raises(DataError, match="'a' holds 3, 'b' holds 2"):
        open_samples({"a": np.ones(3), "b": np.ones(2)}, inputs)
    with pytest.raises(DataError, match="different numbers"):
        open_samples({"input": np.ones((5, 4)), "state": np.ones((6, 1, 5)), "sr": 1}, RECURRENT)


def test_an_input_that_is_no_tensor_cannot_be_fed() -> None:
    with pytest.raises(DataError, match="no tensor"):
        open_samples({"x": np.ones(3)}, (TensorSpec("x", None, ()),))


def test_samples_stay_samples() -> None:
    samples = open_samples({"image": TEN}, IMAGE)
    assert open_samples(samples, IMAGE) is samples


def test_pickles_are_refused(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "evil.npz", image=np.array([{"run": "me"}], object))
    with pytest.raises(DataError, match="pickled objects are refused"):
        open_samples(tmp_path / "evil.npz", IMAGE)


@pytest.mark.parametrize("name", ["bad.npz", "bad.npy", "bad.csv", "bad"])
def test_what_is_no_array_file_is_refused(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=name):
        open_samples(tmp_path / name, IMAGE)


def test_a_truncated_npz_is_refused(npz: pathlib.Path) -> None:
    npz.write_bytes(npz.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        open_samples(npz, IMAGE)


def test_what_is_not_there_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_samples(tmp_path / "missing.npz", IMAGE)
    with pytest.raises(DataError, match="nosuch") as caught:
        open_samples("nosuch://bucket/x.npz", IMAGE)
    assert caught.value.hint


def test_a_file_system_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(fsspec.AbstractFileSystem):
        protocol = "broken"

        def info(self, path: str, **kwargs: object) -> None:
            raise RuntimeError("connection reset")

        def exists(self, path: str, **kwargs: object) -> bool:
            raise RuntimeError("connection reset")

    fsspec.register_implementation("broken", Broken, clobber=True)
    with pytest.raises(DataError, match="cannot be reached: connection reset"):
        open_samples("broken://x.npz", IMAGE)


def test_a_folder_of_npz_is_read_file_by_file(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "b.npz", image=TEN[4:], labels=np.arange(4, 10))
    np.savez(tmp_path / "a.npz", image=TEN[:3], labels=np.arange(3))
    np.savez(tmp_path / "aa.npz", image=TEN[3, 0:1], labels=np.array(3))  # one sample without its batch axis
    (tmp_path / "README").write_text("ignored")
    (tmp_path / ".hidden.npz").write_text("ignored")
    samples = open_samples(tmp_path, IMAGE)
    assert (samples.count, samples.labelled) == (10, True)
    batches = list(samples.batches(4))
    assert [batch.count for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batch.feeds["image"] for batch in batches]), TEN)
    assert np.concatenate([batch.labels for batch in batches]).tolist() == list(range(10))


def test_samples_of_different_shapes_never_share_a_batch(tmp_path: pathlib.Path) -> None:
    for index, length in enumerate((3, 3, 5)):
        np.save(tmp_path / f"{index}.npy", np.ones((2, length), np.float32))
    samples = open_samples(tmp_path, (TensorSpec("x", FLOAT, ("N", "T")),))
    assert [array.shape for array in values(samples, "x", 8)] == [(4, 3), (2, 5)]


def test_a_folder_of_npy_feeds_one_input(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "1.npy", TEN[:4])
    np.save(tmp_path / "2.npy", TEN[4])
    assert open_samples(tmp_path, IMAGE).count == 5
    assert open_samples(tmp_path / "1.npy", IMAGE).count == 4
    with pytest.raises(DataError, match="feeds one input"):
        open_samples(tmp_path, RECURRENT)
    with pytest.raises(DataError, match="does not fit"):
        open_samples(tmp_path / "2.npy", IMAGE)


def test_a_folder_of_two_kinds_or_none_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="neither"):
        open_samples(tmp_path, IMAGE)
    np.save(tmp_path / "1.npy", TEN)
    np.savez(tmp_path / "1.npz", image=TEN)
    with pytest.raises(DataError, match="holds npz and npy"):
        open_samples(tmp_path, IMAGE)


def test_files_must_hold_their_samples_alike(tmp_path: pathlib.Path) -> None:
    np.savez(tmp_path / "1.npz", image=TEN)
    np.savez(tmp_path / "2.npz", image=TEN, labels=np.arange(10))
    with pytest.raises(DataError, match=r"2\.npz.*another way than .*1\.npz"):
        open_samples(tmp_path, IMAGE)


def test_any_of_these_lie_behind_a_url() -> None:
    memory = fsspec.filesystem("memory")
    try:
        with memory.open("/samples/ten.npz", "wb") as file:
            np.savez(file, image=TEN)
        assert open_samples("memory://samples/ten.npz", IMAGE).count == 10
        np.testing.assert_array_equal(open_samples("memory://samples", IMAGE).first(10)["image"], TEN)
    finally:
        memory.rm("/samples", recursive=True)


MODULE = """
import numpy as np

calls = 0

def batches():
    global calls
    calls += 1
    for start in range(0, 10, 4):
        rows = np.arange(40, dtype=np.float32).reshape(10, 1, 2, 2)[start:start + 4]
        yield {"image": rows, "labels": np.arange(start, start + len(rows))}

def singles():
    for index in range(3):
        yield {"image": np.full((1, 2, 2), index, np.float32)}

def endless():
    while True:
        yield {"image": np.zeros((1, 2, 2), np.float32)}

def nothing():
    return []

def lists():
    yield [1, 2]

def raises():
    yield {"image": np.zeros((1, 1, 2, 2), np.float32)}
    raise OSError("camera unplugged")

def changes():
    yield {"image": np.zeros((1, 1, 2, 2), np.float32)}
    yield {"image": np.zeros((1, 1, 2, 2), np.float32), "labels": np.zeros(1, np.int64)}
"""


@pytest.fixture
def yielding(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "yielding_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "yielding_module", None)  # so that afterwards it is as if it never was
    del sys.modules["yielding_module"]


@pytest.mark.usefixtures("yielding")
def test_a_function_is_called_again_for_every_reading() -> None:
    samples = open_samples("yielding_module:batches", IMAGE)
    yielding_module = sys.modules["yielding_module"]
    assert samples.labelled
    before = yielding_module.calls
    for _ in range(2):
        batches = list(samples.batches(3))
        assert [batch.count for batch in batches] == [3, 3, 3, 1]
        np.testing.assert_array_equal(np.concatenate([batch.feeds["image"] for batch in batches]), TEN)
        assert np.concatenate([batch.labels for batch in batches]).tolist() == list(range(10))
    assert samples.count == 10
    assert yielding_module.calls == before + 2
    assert repr(samples) == "<samples from yielding_module:batches>"


@pytest.mark.usefixtures("yielding")
def test_of_a_stream_each_stretch_gives_its_share() -> None:
    samples = open_samples("yielding_module:batches", IMAGE)

    def labels(some: Samples) -> list[int]:
        batches = list(some.batches())
        for batch in batches:  # labels stay with their images
            np.testing.assert_array_equal(batch.feeds["image"][0], TEN[int(batch.labels[0])])
        return [int(batch.labels[0]) for batch in batches]

    large, small = samples.split(0.8)
    assert (large.count, small.count, large.labelled) == (8, 2, True)
    assert sorted(labels(large) + labels(small)) == list(range(10))
    assert [label // 5 for label in labels(small)] == [0, 1]
    drawn = labels(samples.draw(5))
    assert sorted(label // 2 for label in drawn) == [0, 1, 2, 3, 4]
    assert drawn == labels(samples.draw(5)) != sorted(drawn)
    assert sorted(labels(samples.draw(99))) == list(range(10))
    assert set(labels(large.draw(3))) < set(labels(large))


@pytest.mark.usefixtures("yielding")
def test_a_stream_without_end_is_read_as_far_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_YIELDED", 12)
    samples = open_samples("yielding_module:endless", IMAGE)
    assert samples.count == 12
    assert sum(batch.count for batch in samples.draw(6).batches(4)) == 6


@pytest.mark.usefixtures("yielding")
def test_a_function_may_yield_one_sample_at_a_time() -> None:
    assert open_samples("yielding_module:singles", IMAGE).first(3)["image"][:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.usefixtures("yielding")
@pytest.mark.parametrize(("function", "says"), [("nothing", "yields nothing"), ("lists", "dicts of arrays, not list")])
def test_a_function_that_yields_nothing_usable(function: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_samples(f"yielding_module:{function}", IMAGE)


@pytest.mark.usefixtures("yielding")
@pytest.mark.parametrize(
    ("function", "says"), [("raises", "raised OSError: camera unplugged"), ("changes", "in different ways")]
)
def test_a_function_that_fails_later(function: str, says: str) -> None:
    samples = open_samples(f"yielding_module:{function}", IMAGE)
    with pytest.raises(DataError, match=says):
        list(samples.batches())


@pytest.mark.usefixtures("yielding")
def test_a_function_that_is_not_there() -> None:
    with pytest.raises(BadOptionValue, match="has no 'nosuch'"):
        open_samples("yielding_module:nosuch", IMAGE)
