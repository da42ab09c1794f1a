"""Saving: the old file whole or the new one whole, whatever happens, and nothing beside them in the end."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import stat
import sys
import threading
import types

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnxslim.errors import OutputError
from onnxslim.model import check_place, open_model, placing, save_model, stage_model, weight_files, writing
from onnxslim.model.writing import SIGNALS, signals_deferred

TEXT = """
<ir_version: 9, opset_import: ["": 17, "my": 1]>
g (float[N,16] x) => (float[N,16] y) { a = MatMul (x, w) y = my.F (a) }
<domain: "my", opset_import: ["": 17]>
F (a) => (b) { v = Constant <value = float[1] {1.0}> () b = Add (a, v) }
"""


def make(folder: pathlib.Path, factor: float = 1, name: str = "model.onnx") -> pathlib.Path:
    """A model with weights in a file of their own; a local function holds some of them."""
    folder.mkdir(exist_ok=True)
    proto = onnx.parser.parse_model(TEXT)
    weight = np.full((16, 16), factor, np.float32)
    inner = np.full(16, factor, np.float32)
    (folder / f"{name}.bin").write_bytes(weight.tobytes() + inner.tobytes())
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    held = proto.functions[0].node[0].attribute[0].t
    held.CopyFrom(onnx.numpy_helper.from_array(inner, "v"))
    for tensor, offset in ((proto.graph.initializer[0], 0), (held, weight.nbytes)):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", f"{name}.bin"), ("offset", str(offset))):
            tensor.external_data.add(key=key, value=value)
    (folder / name).write_bytes(proto.SerializeToString())
    return folder / name


def answer(path: pathlib.Path) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.ones((1, 16), np.float32)})[0][0, 0])


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_weights_that_local_functions_hold_are_written(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out" / "model.onnx"
    out.parent.mkdir()
    save_model(open_model(make(tmp_path / "in", 2)), out)
    assert answer(out) == 34
    (data,) = weight_files(out)
    assert names(out.parent) == sorted([out.name, data.name])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", range(4))
def test_the_earlier_model_stays_whole_until_the_new_one_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int
) -> None:
    out = tmp_path / "out" / "model.onnx"
    out.parent.mkdir()
    save_model(open_model(make(tmp_path / "in", 2)), out)
    before = names(out.parent)
    replace, calls = os.replace, []

    def failing(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) > step:
            raise error
        replace(source, target)

    model = open_model(make(tmp_path / "in", 3))
    monkeypatch.setattr(os, "replace", failing)
    if step < 3:  # the weights in the hidden folder, in their place, the model
        with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
            save_model(model, out)
        assert answer(out) == 34
    else:
        save_model(model, out)
        assert answer(out) == 51
    monkeypatch.undo()
    save_model(model, out)
    assert answer(out) == 51
    assert len(names(out.parent)) == len(before)


def test_a_folder_with_the_name_of_the_weights(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out" / "model.onnx"
    out.parent.mkdir()
    save_model(open_model(make(tmp_path / "in", 2)), out)
    (data,) = weight_files(out)
    save_model(open_model(make(tmp_path / "in", 3)), out)
    data.mkdir()
    with pytest.raises(OutputError, match="folder"):
        save_model(open_model(make(tmp_path / "in", 2)), out)
    assert answer(out) == 51


def test_signals_wait_until_all_files_have_their_places() -> None:
    seen: list[str] = []
    for number in SIGNALS:
        before = signal.signal(number, lambda *_: seen.append("handled"))
        try:
            with signals_deferred():
                signal.raise_signal(number)
                seen.append("renamed")
        finally:
            signal.signal(number, before)
    assert seen == ["renamed", "handled"] * len(SIGNALS)
    thread = threading.Thread(target=lambda: signals_deferred().__enter__())
    thread.start()
    thread.join()


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="no SIGTERM here")
def test_a_signal_at_any_moment_leaves_no_hidden_folder_and_all_handlers(tmp_path: pathlib.Path) -> None:
    new, path = tmp_path / "new.json", tmp_path / "out" / "out.json"
    path.parent.mkdir()
    path.write_text("old")
    passed = moment = 0

    def count(frame: types.FrameType, event: str, _: object) -> None:
        # Python looks for signals behind each call; between the body of a with statement and the `finally` of ours
        # there are calls inside contextlib, where nobody can defer them
        nonlocal passed
        if event.endswith("return") and frame.f_code.co_filename != contextlib.__file__:
            passed += 1
            if passed == moment:
                signal.raise_signal(signal.SIGTERM)

    while passed >= moment:
        passed, moment = 0, moment + 1
        new.write_text("new")
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        handlers = [signal.getsignal(number) for number in SIGNALS]
        sys.setprofile(count)
        try:
            with writing(path) as file:
                new.rename(file)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
            left = [signal.getsignal(number) for number in SIGNALS]
            for number, handler in zip(SIGNALS, handlers, strict=True):
                signal.signal(number, handler)
            signal.signal(signal.SIGTERM, before)
        assert left == handlers
        assert names(path.parent) == [path.name]
        assert path.read_text() in ("old", "new")
    assert moment > 100
    assert path.read_text() == "new"


def test_what_is_written_together_is_written_whole_or_not_at_all(tmp_path: pathlib.Path) -> None:
    model, out, report = open_model(make(tmp_path / "in", 2)), tmp_path / "out.onnx", tmp_path / "report.json"
    with pytest.raises(ValueError, match="no report"), placing() as placement:  # noqa: PT012
        stage_model(model, out, placement)
        with writing(report, placement) as file:
            file.write_text("half")
            raise ValueError("no report")
    assert names(tmp_path) == ["in"]
    with placing() as placement:
        stage_model(model, out, placement)
        with writing(report, placement) as file:
            file.write_text("{}")
        assert not out.exists()
    assert answer(out) == 34
    assert report.read_text() == "{}"


def test_what_was_written_is_opened_before_it_takes_its_place(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = open_model(make(tmp_path / "in", 2)), tmp_path / "out.onnx"
    monkeypatch.setattr(ir, "save", lambda model, path, **_: path.write_bytes(b"no model"))
    with pytest.raises(OutputError, match="what was written does not open"):
        save_model(model, out)
    assert names(tmp_path) == ["in"]


def test_bytes_of_the_input_are_copied_where_it_is_said_to_hold_the_model(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "in.onnx"
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu (x) }'
    )
    source.write_bytes(proto.SerializeToString() + b"\x92\x03\x02hi")  # a field that nobody knows
    with placing() as placement:
        stage_model(open_model(source), tmp_path / "out.onnx", placement, source=source)
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


def test_links_are_followed_and_permissions_kept(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(onnx.parser.parse_model(TEXT.replace("MatMul (x, w)", "Relu (x)")), source)
    source.chmod(0o640)
    out, link = tmp_path / "out.onnx", tmp_path / "link.onnx"
    save_model(open_model(source), out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    out.chmod(0o604)
    link.symlink_to(out)
    save_model(open_model(source), link)
    assert link.is_symlink()
    assert stat.S_IMODE(out.stat().st_mode) == 0o604
    out.unlink()
    save_model(open_model(source), link)
    assert link.is_symlink()
    assert out.is_file()


def test_a_link_has_no_weights_beside_it(tmp_path: pathlib.Path) -> None:
    link = tmp_path / "link.onnx"
    link.symlink_to(tmp_path / "out.onnx")
    with pytest.raises(OutputError, match="is a link"):
        save_model(open_model(make(tmp_path / "in")), link)


def test_devices_pipes_folders_and_circles_are_not_replaced(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "device").symlink_to(os.devnull)
    before = names(tmp_path)
    for place in (tmp_path / "pipe", tmp_path / "folder", tmp_path / "circle", tmp_path / "device", os.devnull):
        with pytest.raises(OutputError) as caught:
            check_place(pathlib.Path(place))
        assert caught.value.hint
    with pytest.raises(OutputError, match="cannot be written"):
        check_place(tmp_path / ("x" * 300))
    with pytest.raises(OutputError, match="cannot be written"):
        check_place(tmp_path / "a\0b")
    assert names(tmp_path) == before


def test_what_killed_runs_left_is_swept_and_what_is_in_use_is_not(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "out.onnx"
    with placing() as placement:
        used = placement.folder(path)
        left = used.with_name(used.name[:-8] + "leftover")
        left.mkdir()
        (left / "model.onnx").write_bytes(b"half")
        theirs = tmp_path / ".onnxslim-of-somebody"
        theirs.mkdir()
        check_place(path)
        assert used.is_dir()
        assert not left.exists()
    assert names(tmp_path) == [theirs.name]
