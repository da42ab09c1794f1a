"""Figures of matplotlib as SVG for a page: they take its colours and its font, say what they show, and run nothing."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

INK, MUTED, LINE, BEFORE, AFTER, GOOD, BAD = (f"#0d0e{number:02x}" for number in range(7))
"""Colours that mean something. They stand for variables of the page, which has them for light and for dark."""
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", BEFORE: "before", AFTER: "after", GOOD: "good", BAD: "bad"}

WIDTH = 440
"""Units across, of which a letter of a label is 12 high: a figure of a phone's 350 pixels stays readable."""

SETTINGS: Mapping[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: small files, and the page's font
    "text.parse_math": False,  # names hold dollars
    "text.usetex": False,
    "axes.unicode_minus": True,
    "axes.formatter.use_mathtext": False,
    "font.size": 12,
    "figure.dpi": 72,
    "path.simplify": True,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
}

FAMILY = re.compile(r"font-family: [^;]*;? ?|(?<=px) '[^;]*(?=;)")
"""The names of fonts in a style, as newer and older matplotlib writes them; without, letters have the page's font."""
TARGET = re.compile(r"url\(#([\w-]+)\)|#([a-zA-Z][\w-]*)")
SHORT_FONT = re.compile(r"\bfont: ([\d.]+px)")


def drawing(name: str, title: str, description: str, height: int, draw: Callable[[Axes], None]) -> Markup:
    """Return a figure as an SVG element: what `draw` draws on one pair of axes, in the colours of this module.

    The name marks the ids inside: no two figures of a page have the same. Title and description are for those who do
    not see it. The height is in units of which it is `WIDTH` wide.
    """
    import matplotlib  # here: it takes a second
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that its own font lacks are drawn by the browser
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _element(buffer.getvalue(), name, title, description)


def _element(text: str, name: str, title: str, description: str) -> Markup:
    """Return matplotlib's file as an element of a page."""
    from markupsafe import Markup  # here: it is there with the extra only

    root = ElementTree.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    root[:] = [child for child in root if child.tag != "metadata"]
    for parent in list(root.iter()):
        parent[:] = [child for child in parent if child.tag != "style"]
    used = {target for element in root.iter() for target in map(_target, element.attrib.values()) if target}
    for element in root.iter():
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            plain = key.rpartition("}")[2]
            if plain == "id" and value not in used:
                continue
            target = value if plain == "id" else _target(value)
            if target:
                value = value.replace(target, f"{name}-{target}")
            for colour, variable in VARIABLES.items():
                value = value.replace(colour, f"var(--{variable})")
            element.set(plain, SHORT_FONT.sub(r"font-size: \1", FAMILY.sub("", value)) if plain == "style" else value)
    box = root.get("viewBox", "")
    root.attrib.clear()
    labels = f"{name}-title {name}-desc"
    root.attrib.update({"viewBox": box, "role": "img", "aria-labelledby": labels, "class": "plot"})
    for key, words in (("desc", description), ("title", title)):
        child = ElementTree.Element(key, {"id": f"{name}-{key}"})
        child.text = words
        root.insert(0, child)
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _target(value: str) -> str | None:
    """Return the id that an attribute points at: ``url(#a)``, ``#a``."""
    found = TARGET.fullmatch(value)
    return found[1] or found[2] if found else None
