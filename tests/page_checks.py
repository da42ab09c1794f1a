"""Checks of pages that hold whatever is on them: the HTML is whole, nothing in it runs, nothing is fetched."""

from __future__ import annotations

import collections
import html.parser

from onnxslim.report.page.visible import visible

VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}
ALLOWED = {
    *("html", "head", "meta", "title", "link", "style", "body", "header", "main", "footer", "p", "h1", "h2", "h3"),
    *("span", "small", "b", "div", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details"),
    *("summary", "dl", "dt", "dd", "pre", "svg", "g", "path", "use", "text", "tspan", "rect", "clippath", "defs"),
    *("desc", "image", "br"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "rel", "href", "class", "role", "scope", "style", "colspan"),
    *("viewbox", "aria-labelledby", "id", "d", "x", "y", "width", "height", "transform", "clip-path", "data-label"),
    "open",
}
LARGEST = 2_000_000


class Page(html.parser.HTMLParser):
    """A page, taken apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: collections.Counter[str] = collections.Counter()
        self.title = ""
        self.words: list[str] = []
        self.problems: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ALLOWED:
            self.problems.append(f"tag {tag}")
        for name, value in attrs:
            if name not in ATTRIBUTES:
                self.problems.append(f"attribute {name}")
            if name == "href" and not (value or "").startswith(("#", "data:,")):
                self.problems.append(f"link {value}")
            if name == "style" and "(" in (value or "").replace("var(--", "").replace("url(#", ""):
                self.problems.append(f"style {value}")
            if name == "id":
                self.ids[value or ""] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"end of {tag} where it is not open")

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["title"] and "svg" not in self.open:
            self.title += data
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def check_page(text: str) -> Page:
    """Assert that `text` is a whole page that is safe to open, and return it taken apart."""
    assert len(text.encode()) < LARGEST
    assert text.startswith("<!doctype html>\n")
    page = Page(text)
    assert not page.problems
    assert not page.open
    assert max(page.ids.values(), default=1) == 1
    assert "default-src 'none'" in text.replace("&#39;", "'")
    shown = "".join(page.words)
    assert all(visible(line) == line for line in shown.split("\n"))
    return page
