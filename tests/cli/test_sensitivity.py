"""inspect --sensitivity on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    text = '<ir_version: 9, opset_import: ["" : 17]> g (float[N,16] x) => (float[N,16] y) { y = MatMul (x, w) }'
    model = from_text(text, w=weight)
    model.graph.node(0).name = "red\x1b[31m"
    ir.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_the_command_prints_tables_and_json_and_escapes_names(onnxslim, path: Path) -> None:
    options = (
        "inspect",
        path,
        "--sensitivity",
        "-p",
        "quant:times=estimated:calibration=minmax",
        "--provider",
        "cpu",
        "--threads",
        "1",
    )
    told = onnxslim(*options)
    assert told.code == 0
    assert "red\\x1b[31m" in told.out
    assert "\x1b" not in told.out
    record = json.loads(onnxslim(*options, "--worst", "1", "--json").out)
    assert [row["layer"] for row in record["layers"]] == ["red\x1b[31m"]
    assert [row["layer"] for row in record["losses"]] == ["red\x1b[31m"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--worst", "3"), "nothing is judged"),
        (("--metric", "text", "--placement"), "nothing is judged"),
        (("--sensitivity", "--placement"), "--placement and --sensitivity are 2 views"),
        (("-p", "quant"), "add --plan or --sensitivity"),
    ],
)
def test_options_that_mean_nothing_are_refused(onnxslim, path: Path, options, words) -> None:
    told = onnxslim("inspect", path, *options)
    assert (told.code, words in told.err) == (2, True)
