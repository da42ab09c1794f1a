"""Nothing that a run reads, or writes elsewhere, is overwritten by what it writes."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxslim.commands.output_paths import check_places, places_read, places_written
from onnxslim.errors import OutputError
from onnxslim.model import open_model

TEXT = '<ir_version: 9, opset_import: ["": 17]> g (float[N,16] x) => (float[N,16] y) { y = MatMul (x, w) }'


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A model with weights in a file of their own, and whatever else a run may read."""
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((16, 16), np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    for name in ("data.npz", "val.npz", "recipe.toml", "metric.py", "photos/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "w.data")
    (tmp_path / "hard").hardlink_to(tmp_path / "data.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("as_report", [False, True])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("m.onnx", "the input"),
        ("w.data", "the weights of the input"),
        ("link", "the weights of the input"),
        ("data.npz", "what --data reads"),
        ("hard", "what --data reads"),
        ("val.npz", "what --val reads"),
        ("recipe.toml", "what --recipe reads"),
        ("metric.py", "what --metric reads"),
        ("photos/1.png", "what --photos reads"),
    ],
)
def test_nothing_that_is_read_is_overwritten(folder: pathlib.Path, name: str, what: str, as_report: bool) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    read = places_read(
        open_model("m.onnx"),
        pathlib.Path("m.onnx"),
        data="data.npz",
        val=f"file://{folder}/val.npz",
        recipe=pathlib.Path("recipe.toml"),
        metric="metric:top1",
        preprocess=None,
        photos="photos",
        remote="s3://bucket/data.npz",
    )
    places = (None, [pathlib.Path(name)]) if as_report else (pathlib.Path(name), [])
    with pytest.raises(OutputError, match=f"would overwrite {what}") as caught:
        check_places(read, places_written(*places))
    assert caught.value.hint
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_is_written_is_written_once(folder: pathlib.Path) -> None:
    out, page = pathlib.Path("out.onnx"), pathlib.Path("out.html")
    check_places([], places_written(out, [page, pathlib.Path("out.json")]))
    for reports in ([out], [page, folder / "out.html"]):
        with pytest.raises(OutputError, match="would overwrite the"):
            check_places([], places_written(out, reports))
    check_places([], places_written(folder / "photos" / "out.onnx", [pathlib.Path("out.onnx.data")]))
