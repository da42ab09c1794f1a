"""An op that is described wrongly costs knowledge of its nodes, and is said; nothing else fails."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import onnx
import pytest
from onnxslim.passes.simplify import Simplify
from story import make_context

from onnxslim.commands.channel_groups import group_model
from onnxslim.commands.inspect import inspect
from onnxslim.model import open_model
from onnxslim.ops.op import Op
from onnxslim.ops.table import find_op, ops

MODEL = """<ir_version: 10, opset_import: ["": 21, "outside": 1]>
g (float[2, 3] x) => (float[2, 3] y) <float[3, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}> {
    a = MatMul (x, w)
    b = outside.Widget (a)
    y = MatMul (b, w)
}"""


def fails(_: object) -> Any:
    raise TypeError("no such thing")


@pytest.fixture(params=[fails, lambda _: (3,), lambda _: None], ids=["raises", "no facts", "nothing"])
def path(request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    find_op.cache_clear()
    monkeypatch.setitem(ops(), ("outside", "Widget"), Op(request.param, fails))  # type: ignore[arg-type]
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    yield path
    find_op.cache_clear()


def test_what_describes_an_op_wrongly_is_said(path: pathlib.Path) -> None:
    (problem,) = inspect(path).not_inferred
    assert problem.startswith("Widget b: TypeError: ")
    model = open_model(path)
    change = Simplify().run(model, make_context(model))
    assert problem in [note.reason for note in change.notes if note.subject == "shapes"]


def test_the_axes_of_such_an_op_are_frozen(path: pathlib.Path) -> None:
    (frozen,) = (figures for figures in group_model(path).frozen if figures.code == "failed")
    assert frozen.reason.startswith("Widget: its axes are not known, for the code that relates them fails: TypeError")
