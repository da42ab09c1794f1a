"""What the pages about extending say is done as they say it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from typing import Any

import onnx_ir as ir
import pytest
from classifier import classifier
from outside import install
from sample_models import from_text
from story import nodes_of
from zoo import ROOT


def test_a_rule_is_found_written_proved_and_applied_as_the_page_says(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "extend" / "add_a_rule.md").read_text(encoding="utf-8")
    rule, case = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    (tmp_path / "parts.rules").write_text(rule)
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("hypothesis")
    scope: dict[str, Any] = {}
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), "add_a_rule.md", "exec"), scope)
    assert "differs by" in capsys.readouterr().out
    ((before, _, after),) = ast.literal_eval(f"{{{case}}}").values()
    model = from_text(f'<ir_version: 8, opset_import: ["" : 21]> g {before}')
    scope["fixpoint"](model, [scope["rule"]])
    assert nodes_of(model.graph) == [after]


@pytest.mark.parametrize("name", ["write_a_pass", "add_a_metric", "add_a_provider"])
def test_a_package_is_written_installed_and_used_as_the_page_says(tmp_path, name):
    page = (ROOT / "docs" / "extend" / f"{name}.md").read_text(encoding="utf-8")
    files = {"toy/__init__.py": "", **dict(re.findall(r"`(toy/[^`]+)`:\n\n```\w+\n(.*?)```", page, re.DOTALL))}
    ((group, key, value),) = re.findall(r'entry-points\."([^"]+)"\]\n(\w+) = "([^"]+)"', page)
    folder = install(tmp_path, "toy", files, {group: {key: value}})
    ir.save(classifier(), folder / "model.onnx")
    (command,) = re.findall(r"```console\nonnxslim (.*)\n```", page)
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim", *command.split(), "--no-measure"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert key in done.stdout or key in command
