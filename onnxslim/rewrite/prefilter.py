"""The surroundings that a match needs, found before it is read at an opset: they rule out most rules at most nodes.

Reading a body takes ten times as long as this glance at its text, and most rules match nowhere in a model.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping

from onnxslim.model.constants import CONSTANT
from onnxslim.ops.signatures import OpName

STATEMENT = re.compile(
    r"(?P<results>[\w, ]*?) = (?P<op>[\w.]+)(?: <[^>]*>)? \((?P<inputs>[^)]*)\)(?=[\s}])",
)
"""A statement as `onnxslim.rewrite.expression` writes it."""

Makers = Mapping[str, tuple[OpName, tuple[str, ...]]]
"""The op that computes a name, and the names that it reads."""


@dataclasses.dataclass(frozen=True)
class Prefilter:
    """The surroundings that a match asks for."""

    root: tuple[str, str]
    """(domain, op type) of the node that makes the first result; matching begins there."""
    input_producers: tuple[str | None, ...]
    """What must make each input of the root: the name of an op; "" something known; None: whatever it is."""
    depth: int
    """How many nodes lie between the root and what is farthest from it, both counted."""

    @functools.cached_property
    def required_producers(self) -> frozenset[str]:
        """The producers that are given, whatever the order of the inputs."""
        return frozenset(producer for producer in self.input_producers if producer is not None)


def read_prefilter(written: str, result: str) -> Prefilter | None:
    """Glance at a match, written as `onnxslim.rewrite.expression.write_out` does, and return what is seen.

    None where nothing makes the first result, `result`, so that no node could be the root.
    """
    makers: dict[str, tuple[OpName, tuple[str, ...]]] = {}
    for statement in STATEMENT.finditer(written):
        reads = tuple(name.strip() for name in statement["inputs"].split(",")) if statement["inputs"].strip() else ()
        for name in statement["results"].split(","):
            domain, _, op_type = statement["op"].rpartition(".")
            makers[name.strip()] = ((domain, op_type), reads)
    if result not in makers:
        return None
    root, reads = makers[result]
    return Prefilter(root, tuple(_input_producer(name, makers) for name in reads), _depth(result, makers))


def _input_producer(name: str, makers: Makers) -> str | None:
    if name not in makers:
        return None
    domain, op_type = makers[name][0]
    return "" if (domain, op_type) == CONSTANT else op_type


def _depth(name: str, makers: Makers) -> int:
    if name not in makers or makers[name][0] == CONSTANT:
        return 0
    return 1 + max((_depth(operand, makers) for operand in makers[name][1]), default=0)
