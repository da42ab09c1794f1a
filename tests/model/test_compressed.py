"""Compressed models: written and read everywhere a model is, within bounds that the file does not set."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import onnx
import onnxruntime
import pytest
import zstandard
from sample_models import from_text
from zoo import MODELS

import onnxslim
from onnxslim.errors import ModelNotFound, ModelUnreadable, OutputError
from onnxslim.model import compressed, download_bytes, file_bytes, open_model, save_model
from onnxslim.model.compressed import compress, compressed_bytes, is_compressed, load
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

CPU = Target("cpu", "test", "avx2", 1)
TEXT = """<ir_version: 10, opset_import: ["" : 17]>
g (float[N, 30] x) => (float[N, 40] y) { y = MatMul (x, w) }"""
X = np.ones((2, 30), np.float32)


def model():
    return from_text(TEXT, w=np.random.default_rng(0).normal(size=(30, 40)).astype(np.float32))


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "m.onnx.zst"
    save_model(model(), path)
    return path


def test_what_is_saved_compressed_is_the_same_model(packed, tmp_path):
    save_model(model(), tmp_path / "m.onnx")
    plain = (tmp_path / "m.onnx").read_bytes()
    assert zstandard.ZstdDecompressor().decompress(packed.read_bytes()) == plain == load(packed)
    assert load(tmp_path / "m.onnx") == plain
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.zst"]
    assert open_model(packed).graph.initializers["w"].const_value.shape == [30, 40]
    assert file_bytes(packed) == file_bytes(tmp_path / "m.onnx") == len(plain)
    assert download_bytes(packed) == download_bytes(tmp_path / "m.onnx") == packed.stat().st_size


def test_it_is_written_alike_every_time(packed, tmp_path):
    save_model(model(), tmp_path / "again.onnx.zst")
    assert (tmp_path / "again.onnx.zst").read_bytes() == packed.read_bytes()


def test_onnx_runtime_and_sessions_take_it(packed):
    expected = X @ model().graph.initializers["w"].const_value.numpy()
    runtime = onnxruntime.InferenceSession(onnxslim.load(packed), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(runtime.run(None, {"x": X})[0], expected, rtol=1e-5)
    np.testing.assert_allclose(Session.of(packed, CPU).run({"x": X})["y"], expected, rtol=1e-5)
    onnx.checker.check_model(onnx.load_from_string(onnxslim.load(packed)))


def test_weights_beside_a_compressed_model_are_found(tmp_path):
    onnx.save_model(
        onnx.load_from_string(_bytes(tmp_path)),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    compress(tmp_path / "m.onnx", tmp_path / "m.onnx.zst")
    opened = open_model(tmp_path / "m.onnx.zst")
    np.testing.assert_allclose(Session.of(tmp_path / "m.onnx.zst", CPU).run({"x": X})["y"].shape, (2, 40))
    assert download_bytes(tmp_path / "m.onnx.zst", opened) > (tmp_path / "m.onnx.zst").stat().st_size
    save_model(opened, tmp_path / "whole.onnx.zst")
    (tmp_path / "m.data").unlink()
    assert Session.of(tmp_path / "whole.onnx.zst", CPU).run({"x": X})["y"].shape == (2, 40)


def _bytes(folder):
    save_model(model(), folder / "plain.onnx")
    return (folder / "plain.onnx").read_bytes()


def test_weights_that_need_a_file_of_their_own_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxslim.model.saving.SINGLE_FILE_LIMIT", 100)
    with pytest.raises(OutputError, match="a compressed model is one file"):
        save_model(model(), tmp_path / "m.onnx.zst")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[: len(content) // 2], "ends after"),
        (lambda content: content[:7], "ends after|damaged"),
        (lambda content: b"\x08" + content[1:], "no zstd file"),
        (lambda content: content[:-9] + bytes(9), "damaged"),
        (lambda content: content[:200] + bytes(50) + content[250:], "damaged"),
        (lambda content: b"hello", "no zstd file"),
        (lambda content: b"", "empty"),
    ],
)
def test_damaged_files_are_refused(packed, change, said):
    packed.write_bytes(change(packed.read_bytes()))
    with pytest.raises(ModelUnreadable, match=said) as caught:
        open_model(packed)
    assert caught.value.hint


@pytest.mark.parametrize("tells", [True, False], ids=["tells its size", "does not"])
def test_a_file_does_not_decide_how_much_memory_it_takes(tmp_path, monkeypatch, tells):
    monkeypatch.setattr(compressed, "ALWAYS", 1 << 16)
    packer = zstandard.ZstdCompressor(write_content_size=tells)
    content = bytes(20_000_000)
    path = tmp_path / "bomb.onnx.zst"
    whole = packer.compressobj()
    path.write_bytes(packer.compress(content) if tells else whole.compress(content) + whole.flush())
    read = 0
    original = zstandard.ZstdDecompressor

    def counting(*given, **named):
        nonlocal read
        read += 1
        return original(*given, **named)

    monkeypatch.setattr(zstandard, "ZstdDecompressor", counting)
    with pytest.raises(ModelUnreadable, match="would expand to"):
        open_model(path)
    assert read == (0 if tells else 1)


def test_a_window_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "WINDOW", 1 << 12)
    path = tmp_path / "m.onnx.zst"
    content = np.random.default_rng(0).bytes(1 << 16)
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    path.write_bytes(packer.compress(content) + packer.flush())
    with pytest.raises(ModelUnreadable, match="damaged"):
        load(path)


def test_frames_one_behind_the_other_are_one_file(packed):
    content = load(packed)
    packer = zstandard.ZstdCompressor(write_content_size=False)
    halves = (content[:100], content[100:])
    frames = []
    for part in halves:
        whole = packer.compressobj()
        frames.append(whole.compress(part) + whole.flush())
    packed.write_bytes(b"".join(frames))
    assert load(packed) == content


def test_missing_files(tmp_path):
    for name in ("no.onnx", "no.onnx.zst", "zero\0.onnx.zst"):
        with pytest.raises(ModelNotFound):
            load(tmp_path / name)
    with pytest.raises(ModelUnreadable):
        load(tmp_path)


def test_names():
    assert [is_compressed(name) for name in ("a.onnx.zst", "A.ONNX.ZST", "a.onnx", "zst")] == [True, True, False, False]


def test_measuring_writes_nothing(tmp_path):
    path = tmp_path / "m.onnx"
    save_model(model(), path)
    compress(path, tmp_path / "m.zst")
    assert compressed_bytes(path) == (tmp_path / "m.zst").stat().st_size
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.zst"]


def test_a_run_reads_and_writes_compressed_models_and_reports_their_size(tmp_path):
    first = onnxslim.optimize(MODELS / "fashion_resnet8.onnx", output=tmp_path / "a.onnx.zst", measure=False)
    after = first.report.after
    assert after.compressed_bytes == (tmp_path / "a.onnx.zst").stat().st_size < after.size_bytes
    digest = hashlib.sha256((tmp_path / "a.onnx.zst").read_bytes()).hexdigest()
    assert first.report.output.sha256 == digest
    again = onnxslim.optimize(tmp_path / "a.onnx.zst", output=tmp_path / "b.onnx", measure=False)
    assert again.report.input.path == str(tmp_path / "a.onnx.zst")
    assert again.report.input.sha256 == digest
    assert (again.report.before.size_bytes, again.report.before.compressed_bytes) == (
        after.size_bytes,
        after.compressed_bytes,
    )
    copied = onnxslim.optimize(tmp_path / "b.onnx", output=tmp_path / "c.onnx.zst", measure=False)
    assert not copied.report.passes[0].kept
    assert load(tmp_path / "c.onnx.zst") == (tmp_path / "b.onnx").read_bytes()
