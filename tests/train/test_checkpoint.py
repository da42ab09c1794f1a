"""Checkpoints: what is written is read again; what is none is refused, whatever it says of itself."""

from __future__ import annotations

import io
import json
import pathlib
import struct
import zipfile

import numpy as np
import pytest

from onnxslim.errors import OutputError, UsageError
from onnxslim.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

NAMES = ("a/b", "\u00e4 \u4e2d", "x" * 300, "../../up", "about.json")
GIVEN = Checkpoint(
    "f",
    "s",
    3,
    {name: np.arange(6, dtype=np.float32).reshape(2, 3) for name in NAMES},
    {"e": np.ones(())},
    {"loss": 1.5},
)


def test_what_is_written_is_read_again_whatever_weights_are_called(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "c"
    assert read_checkpoint(path, "f", "s") is None
    write_checkpoint(path, GIVEN)
    found = read_checkpoint(path, "f", "s")
    assert found is not None
    assert (found.step, found.progress, list(found.state)) == (3, {"loss": 1.5}, list(NAMES))
    for name, array in {**GIVEN.state, **GIVEN.best}.items():
        np.testing.assert_array_equal({**found.state, **found.best}[name], array)
    assert read_checkpoint(path, "f", "another student") is None
    with pytest.raises(UsageError, match="another training"):
        read_checkpoint(path, "g", "s")


def _written(*, header: dict[str, object] | None = None, body: bytes = b"", compressed: bool = False) -> bytes:
    about = {"fingerprint": "f", "student": "s", "step": 1, "progress": {}, "names": ["state/w"]}
    text = repr(header).encode() + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("about.json", json.dumps(about))
        archive.writestr("0.npy", member)
    return file.getvalue()


FLOATS = {"descr": "<f4", "fortran_order": False}
HOSTILE = {
    "empty": b"",
    "no archive": b"PK\x03\x04 no archive",
    "cut off": _written(header={**FLOATS, "shape": (2,)}, body=bytes(8))[:-30],
    "larger than it is": _written(header={**FLOATS, "shape": (1 << 40,)}, body=bytes(8)),
    "compressed": _written(header={**FLOATS, "shape": (2,)}, body=bytes(8), compressed=True),
    "pickled": _written(header={"descr": "|O", "fortran_order": False, "shape": (1,)}, body=b"cos\nsystem\n."),
    "no header": _written(header=None),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_checkpoint_is_refused(kind: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(UsageError, match="no checkpoint") as caught:
        read_checkpoint(path, "f", "s")
    assert caught.value.hint


def test_a_place_where_nothing_can_be_written_is_told_before_anything_is_trained(tmp_path: pathlib.Path) -> None:
    for path in (tmp_path, tmp_path / "nosuch" / "c", tmp_path / ("c" * 300)):
        with pytest.raises(OutputError):
            read_checkpoint(path, "f", "s")
