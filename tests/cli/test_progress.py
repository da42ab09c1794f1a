from __future__ import annotations

import io

import pytest
from rich.console import Console

import onnxslim.cli.progress
from onnxslim.cli.progress import Bar, progress_bar


def test_no_bar_where_nobody_looks(capsys: pytest.CaptureFixture[str]):
    with progress_bar() as progress:
        progress("quant", 1, 2)
        assert not isinstance(progress, Bar)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal_says_what_is_done_and_goes(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(
        onnxslim.cli.progress, "Console", lambda **options: Console(file=stream, force_terminal=True, width=80)
    )
    with progress_bar() as progress:
        assert isinstance(progress, Bar)
        progress("quant [1]", 1, 2)
        progress._display.refresh()
        assert "quant [1]" in stream.getvalue()
        assert "1/2" in stream.getvalue()
        progress("measuring", 0, None)
        progress._display.refresh()
        assert "measuring" in stream.getvalue()
