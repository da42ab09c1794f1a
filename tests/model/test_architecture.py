"""ONNX text becomes a model whose weights are zeros where they have no elements; what is none is refused."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from zoo import MODELS

from onnxslim.errors import ModelError, ModelNotFound, ModelUnreadable, ModelUnsupported
from onnxslim.model import open_model
from onnxslim.model.architecture import is_architecture, open_architecture
from onnxslim.model.nesting import count_nodes

HEADER = '<ir_version: 8, opset_import: ["" : 18]> g '


def opened(text: str, folder: pathlib.Path) -> dict[str, np.ndarray]:
    path = folder / "a.onnxtxt"
    path.write_text(text)
    model = open_architecture(path)
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore[union-attr]


def test_weights_without_elements_are_zeros_and_others_stay(tmp_path: pathlib.Path) -> None:
    weights = opened(
        HEADER + "(float[N,2] x) => (float[N,3] y) <float[2,3] w, float[3] b = {1, 2, 3}, float[N,3] a>"
        "{ a = MatMul (x, w)  y = Add (a, b) }",
        tmp_path,
    )
    assert weights.keys() == {"w", "b"}
    assert weights["w"].shape == (2, 3)
    assert not weights["w"].any()
    assert weights["b"].tolist() == [1, 2, 3]


def test_the_model_that_ships_is_described_by_its_text() -> None:
    text, model = open_architecture(MODELS / "fashion_resnet8.onnxtxt"), open_model(MODELS / "fashion_resnet8.onnx")

    def sizes(opened: object) -> list[int]:
        return sorted(
            value.const_value.size  # type: ignore[union-attr]
            for value in opened.graph.initializers.values()  # type: ignore[attr-defined]
        )

    duplicates = sum(node.op_type == "Identity" for node in model.graph)  # vectors that are equal are stored once
    assert count_nodes(text) == count_nodes(model) - duplicates
    assert sizes(text) == sorted([*sizes(model), 64, 128])


@pytest.mark.parametrize(
    ("text", "words", "kind"),
    [
        ("no text", "no ONNX text", ModelUnreadable),
        (HEADER + "(float[N,2] x) => (float[N,3] y) <float[2,K] w> { y = MatMul (x, w) }", "fixed", ModelUnreadable),
        (HEADER + "(float[N,2] x) => (float[N,3] y) { y = MatMul (x, w) }", "w", ModelError),
        (
            HEADER + "(float[N,2] x) => (float[N,3] y) <float[9999999,9999999] w> { y = MatMul (x, w) }",
            "2 GiB",
            ModelUnsupported,
        ),
    ],
)
def test_what_is_no_model_is_refused(text: str, words: str, kind: type[ModelError], tmp_path: pathlib.Path) -> None:
    with pytest.raises(kind) as caught:
        opened(text, tmp_path)
    assert words in str(caught.value)
    assert caught.value.where == str(tmp_path / "a.onnxtxt")
    assert caught.value.hint


def test_a_file_that_is_missing_or_binary_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelNotFound):
        open_architecture(tmp_path / "none.onnxtxt")
    (tmp_path / "b.onnxtxt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelUnreadable):
        open_architecture(tmp_path / "b.onnxtxt")
    assert is_architecture("a/b.ONNXTXT")
    assert not is_architecture("a.onnx")
