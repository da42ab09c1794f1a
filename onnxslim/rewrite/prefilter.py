"""What can be told of a match before it is read at an opset: enough to pass over most rules at most nodes.

Reading a body takes ten times as long as this glance at its text, and most rules match nowhere in a model.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

STATEMENT = re.compile(
    r"(?P<results>[\w, ]*?) = (?P<op>[\w.]+)(?: <[^>]*>)? \((?P<inputs>[^)]*)\)(?=[\s}])",
)
"""A statement as `onnxslim.rewrite.expression` writes it."""

Makers = Mapping[str, tuple[str, tuple[str, ...]]]
"""What makes a name: the op with its domain, and the names it reads."""


@dataclasses.dataclass(frozen=True)
class Outline:
    """The surroundings that a match asks for."""

    root: tuple[str, str]
    """(domain, op type) of the node that makes the first result; matching begins there."""
    signposts: tuple[str | None, ...]
    """What must make each input of the root: the name of an op; "" something known; None: whatever it is."""
    depth: int
    """How many nodes lie between the root and what is farthest from it, both counted."""

    @functools.cached_property
    def demanded(self) -> frozenset[str]:
        """The signposts that say something, whatever the order of the inputs."""
        return frozenset(post for post in self.signposts if post is not None)


def outline(written: str, result: str) -> Outline | None:
    """Glance at a match.

    Args:
        written: The body as ONNX text, as `onnxslim.rewrite.expression.write_out` makes it.
        result: The name of the first result.

    Returns:
        What is seen; None where nothing makes the result, so that no node could be the root.
    """
    makers: dict[str, tuple[str, tuple[str, ...]]] = {}
    for statement in STATEMENT.finditer(written):
        reads = tuple(name.strip() for name in statement["inputs"].split(",")) if statement["inputs"].strip() else ()
        for name in statement["results"].split(","):
            makers[name.strip()] = (statement["op"], reads)
    if result not in makers:
        return None
    op, reads = makers[result]
    domain, _, op_type = op.rpartition(".")
    return Outline((domain, op_type), tuple(_signpost(name, makers) for name in reads), _depth(result, makers))


def _signpost(name: str, makers: Makers) -> str | None:
    if name not in makers:
        return None
    op = makers[name][0]
    return "" if op == "Constant" else op.rpartition(".")[2]


def _depth(name: str, makers: Makers) -> int:
    if name not in makers or makers[name][0] == "Constant":
        return 0
    return 1 + max((_depth(each, makers) for each in makers[name][1]), default=0)
