"""inspect --placement on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

TEXT = """<ir_version: 9, opset_import: ["" : 17]> g (float[1,4,8,8] x) => (float[] y) {
    xq = QuantizeLinear (x, s, z) xd = DequantizeLinear (xq, s, z)
    wd = DequantizeLinear (w, k) c = Conv (xd, wd) cq = QuantizeLinear (c, s, z) cd = DequantizeLinear (cq, s, z)
    [hard] t = HardSigmoid (cd) tq = QuantizeLinear (t, s, z) td = DequantizeLinear (tq, s, z) y = Tanh (td)
}"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weights = {"s": np.float32(0.05), "z": np.uint8(128), "w": np.full((4, 4, 3, 3), 3, np.int8), "k": np.float32(0.01)}
    ir.save(from_text(TEXT, **weights), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_command_prints_tables_and_json(onnxslim, path: Path) -> None:
    told = onnxslim("inspect", path, "--placement", "--provider", "cpu", "--threads", "1")
    assert told.code == 0
    assert "pair around floats" in told.out
    assert "cost time and bring none" in told.out
    record = json.loads(onnxslim("inspect", path, "--placement", "--provider", "cpu", "--json").out)
    assert record["places"]["int8"]["nodes"] == 1
    assert {conversion["saves_time"] for conversion in record["conversions"]} == {True, False}


def test_one_view_at_a_time_and_samples_only_where_it_is_run(onnxslim, path: Path) -> None:
    both = onnxslim("inspect", path, "--placement", "--groups")
    assert (both.code, "--groups and --placement are 2 views" in both.err) == (2, True)
    data = onnxslim("inspect", path, "--data", "x.npz")
    assert (data.code, "nothing is run" in data.err) == (2, True)
