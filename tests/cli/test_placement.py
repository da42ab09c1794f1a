"""inspect --placement on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from quantized_models import save_pairs_around_floats


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_pairs_around_floats(tmp_path)


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
