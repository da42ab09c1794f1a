"""A model says how it was made."""

from __future__ import annotations

import hashlib
import pathlib

import onnx_ir as ir

from onnxslim.commands.provenance import sha256, sign
from onnxslim.installation import version

IDENTITY = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Identity (x) }'


def test_the_recipe_is_written_and_nothing_else_is_touched() -> None:
    model = ir.from_onnx_text(IDENTITY)
    model.metadata_props.update({"author": "someone", "onnxslim.max_drop": "0.5"})
    sign(model, passes="simplify,quant", seed=7, max_drop=None, input_sha256="abc")
    assert dict(model.metadata_props) == {
        "author": "someone",
        "onnxslim.version": version(),
        "onnxslim.passes": "simplify,quant",
        "onnxslim.seed": "7",
        "onnxslim.input_sha256": "abc",
    }


def test_the_budget_is_written_where_there_is_one() -> None:
    model = ir.from_onnx_text(IDENTITY)
    sign(model, passes="prune", seed=0, max_drop=0.01, input_sha256=None)
    assert model.metadata_props["onnxslim.max_drop"] == "0.01"
    assert "onnxslim.input_sha256" not in model.metadata_props


def test_the_hash_is_that_of_the_bytes(tmp_path: pathlib.Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
