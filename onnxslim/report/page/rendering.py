"""Fills the templates. Whatever is filled in is made visible and escaped; only what we drew ourselves is markup."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxslim.errors import OutputError
from onnxslim.report.page.visible import shortened, visible

if TYPE_CHECKING:
    from jinja2 import Environment

HINT = "pip install 'onnxslim-compiler[report]'"
LONGEST, LONGEST_BLOCK = 2000, 50_000
"""Letters of anything that is filled in, and of a block that is to be copied: the last line of defence against names
that would make a page too large."""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""What a browser may do with the page: show it. There are no scripts, and none that slipped in would run."""


def need_libraries(where: object = None) -> None:
    """Check that what pages are made with is installed.

    Raises:
        OutputError: It is not; the hint says what to install.
    """
    try:
        import jinja2
        import matplotlib
    except ImportError as error:
        raise OutputError(f"a page cannot be made: {error.name} is not installed", where=where, hint=HINT) from None
    assert jinja2, matplotlib


def render(template: str, values: Mapping[str, Any]) -> str:
    """Return the page that `template` makes of `values`."""
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> Environment:
    import jinja2
    from markupsafe import Markup, escape

    def shown(value: Any) -> Any:
        if value is None:
            return ""
        return value if isinstance(value, Markup) or not isinstance(value, str) else shortened(value, LONGEST)

    def lines(text: str) -> Markup:
        return Markup("\n").join(escape(visible(line)) for line in text[:LONGEST_BLOCK].splitlines())

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnxslim.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["lines"] = lines
    environment.filters["percent"] = _percent
    environment.globals["policy"] = POLICY
    return environment


def _percent(share: float) -> str:
    """Return a share as a length in CSS."""
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"
