from __future__ import annotations

import json
import sys

import pytest
from page_checks import check_page
from read_report import from_json
from report_strategies import sample_report

import onnxslim
from onnxslim.errors import OutputError, UsageError
from onnxslim.report.destination import check_destinations, save_report


def test_the_suffix_decides(tmp_path):
    page, data = tmp_path / "r.html", tmp_path / "r.JSON"
    onnxslim.save_report(sample_report(), page, str(data))
    check_page(page.read_text(encoding="utf-8"))
    assert from_json(json.loads(data.read_text(encoding="utf-8"))) == sample_report()


@pytest.mark.parametrize("name", ["r.pdf", "r", "json"])
def test_another_suffix_is_refused(tmp_path, name: str):
    with pytest.raises(UsageError, match="no such form") as caught:
        check_destinations([tmp_path / name])
    assert ".html" in str(caught.value)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_extra_json_is_written_and_a_page_is_refused(tmp_path, monkeypatch, package: str):
    monkeypatch.setitem(sys.modules, package, None)
    save_report(sample_report(), tmp_path / "r.json")
    with pytest.raises(OutputError, match=f"{package} is not installed") as caught:
        check_destinations([tmp_path / "r.html"])
    assert caught.value.hint == "pip install 'onnxslim-compiler[report]'"


def test_all_reports_are_written_or_none(tmp_path):
    with pytest.raises(OutputError, match="no folder"):
        save_report(sample_report(), tmp_path / "r.json", tmp_path / "missing" / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_page_is_a_bug(tmp_path):
    with pytest.raises(TypeError, match="no page of a dict"):
        save_report({}, tmp_path / "r.html")
