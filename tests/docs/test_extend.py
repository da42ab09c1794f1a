"""What the pages about extending say is done as they say it."""

from __future__ import annotations

import re

import pytest
from zoo import ROOT


def test_a_rule_is_found_written_proved_and_applied_as_the_page_says(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "extend" / "add_a_rule.md").read_text(encoding="utf-8")
    (rule,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    (tmp_path / "parts.rules").write_text(rule)
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("hypothesis")
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), "add_a_rule.md", "exec"), {})
    assert "differs by" in capsys.readouterr().out
