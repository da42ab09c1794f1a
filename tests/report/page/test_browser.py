"""Pages in a real browser: they load without a word in the console, fetch nothing, run nothing, and fit a phone."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
import subprocess

import pytest
from report_pages import hostile_report, long_report
from report_strategies import sample_report

from onnxslim.report.page.document import page_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: apt-get install chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # it looks for news of itself: let it find none
)
REQUEST = re.compile(r'"initiator":"(?!not an origin")[^"]*".*?"url":"((?:http|ws)[^"]*)"')
"""A request in the browser's log that a page started, and not the browser itself."""
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@dataclasses.dataclass(frozen=True)
class Visit:
    """What came of opening a page."""

    title: str
    body: str
    console: list[str]
    requests: list[str]
    screenshot: bytes


def visit(folder: pathlib.Path, text: str, width: int = 390) -> Visit:
    page, log, shot = folder / "page.html", folder / "net.json", folder / "shot.png"
    page.write_text(text, encoding="utf-8")
    command = [
        *(str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'user'}", f"--log-net-log={log}"),
        *(f"--window-size={width},2000", f"--screenshot={shot}", "--dump-dom", page.as_uri()),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    events = log.read_text(encoding="utf-8", errors="replace").splitlines()
    title = re.search(r"<title>(.*?)</title>", answer.stdout, re.DOTALL)
    assert title is not None
    return Visit(
        title=title[1],
        body=answer.stdout,
        console=[line for line in answer.stderr.splitlines() if "CONSOLE" in line],
        requests=[found[1] for event in events if (found := REQUEST.search(event))],
        screenshot=shot.read_bytes() if shot.exists() else b"",
    )


@pytest.mark.parametrize("make", [hostile_report, long_report])
def test_a_page_says_nothing_fetches_nothing_and_runs_nothing(tmp_path, make):
    text = page_of(make())
    title = re.search(r"<title>(.*?)</title>", text)
    assert title is not None
    seen = visit(tmp_path, text)
    assert (seen.title, seen.console, seen.requests) == (title[1], [], [])
    assert "<h2>" in seen.body
    assert seen.screenshot.startswith(b"\x89PNG")


def test_what_slipped_in_would_not_run_and_would_be_seen(tmp_path):
    script = "<script>document.title = 'ran'</script><img src='http://127.0.0.1:9/x'></main>"
    text = page_of(sample_report()).replace("</main>", script)
    held = visit(tmp_path, text)
    assert held.title != "ran"
    assert len(held.console) >= 2  # the browser complains about both
    assert held.requests == []
    free = visit(tmp_path, POLICY.sub("", text))
    assert free.title == "ran"
    assert "http://127.0.0.1:9/x" in free.requests


@pytest.mark.parametrize(("make", "width"), [(hostile_report, 390), (long_report, 390), (sample_report, 1280)])
def test_nothing_sticks_out(tmp_path, make, width: int):
    script = "<script>document.title = `${document.documentElement.scrollWidth} ${innerWidth}`</script></main>"
    text = POLICY.sub("", page_of(make())).replace("</main>", script)
    widest, window = map(int, visit(tmp_path, text, width).title.split())
    assert window <= max(width, 500)  # it has windows of 500 pixels at least
    assert widest <= window
