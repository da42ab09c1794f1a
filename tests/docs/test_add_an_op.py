"""The page on ops does what it says: its example is one file, and proves itself."""

from __future__ import annotations

import re
import types

import numpy as np
import op_cases
import op_proof
import pytest
from zoo import ROOT

from onnxslim.ops import table


@pytest.fixture
def blocks() -> list[str]:
    page = (ROOT / "docs" / "extend" / "add_an_op.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def forget() -> None:
    for found in (table.ops, table.kinds, table.find_op):
        found.cache_clear()


def test_the_example_of_the_page_is_one_file_and_proves_itself(blocks, monkeypatch):
    family = types.ModuleType("cumulative")
    exec(blocks[0], family.__dict__)
    monkeypatch.setattr(op_cases, "DRAWN", op_cases.DRAWN)
    monkeypatch.delitem(op_cases.DRAWN, ("", "CumProd"), raising=False)
    exec(blocks[1], {"np": np, "Draw": op_cases.Draw, "Case": op_cases.Case, "DRAWN": op_cases.DRAWN})
    op = ("", "CumProd")
    try:
        assert table.find_op(op).relate is None, "the example must be an op that is not there yet"
        found = (*table._families(), family)
        monkeypatch.setattr(table, "_families", lambda: found)
        forget()
        op_proof.prove(op, 26)
    finally:
        monkeypatch.undo()
        op_cases.DRAWN.pop(op, None)
        forget()
