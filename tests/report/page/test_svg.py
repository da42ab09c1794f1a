from __future__ import annotations

from page_checks import Page

from onnxslim.report.page.svg import AFTER, BEFORE, drawing

HOSTILE = ["$\\frac$", "<script>alert(1)</script>", "]]>", "\u4e2d\u6587", "_private", "a & b", '"onload="x']


def draw(axes) -> None:
    axes.barh(range(len(HOSTILE)), range(len(HOSTILE)), color=[BEFORE, AFTER] * 3 + [AFTER])
    axes.set_yticks(range(len(HOSTILE)), HOSTILE)
    axes.plot([1, 2], [3, 4], "x", color=AFTER)


def test_a_figure_takes_the_colours_of_the_page_and_names_stay_text():
    svg = drawing("some", "A title & more", "What it <shows>", 200, draw)
    page = Page(svg)
    assert not page.problems
    assert not page.open
    assert {"var(--before)", "var(--after)"} <= {word.rstrip(";") for word in svg.replace('"', " ").split()}
    assert "#0d0e" not in svg
    assert set(HOSTILE) <= set(page.words)
    assert {"A title & more", "What it <shows>"} <= set(page.words)
    assert "font-family" not in svg


def test_figures_are_the_same_each_time_and_share_no_ids():
    one, again, other = (drawing(name, "", "", 200, draw) for name in ("one", "one", "other"))
    assert one == again
    assert not Page(one).ids.keys() & Page(other).ids.keys()
    assert all(f"#{name}" in one for name in Page(one).ids if not name.endswith(("-title", "-desc")))
