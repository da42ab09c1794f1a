"""A rewrite rule that was read: a signature, and bodies of nodes that refer to each other by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from onnxslim.errors import RuleError
from onnxslim.model.constants import is_constant_node
from onnxslim.rewrite.prefilter import Prefilter
from onnxslim.rewrite.signature import Parameter
from onnxslim.rewrite.source import RuleText

IMPORTED_VERSION = 1
"""Of the domains that are not ONNX's own: they have no schemas here, so any version will do."""


class DoesNotCheck(RuleError):
    """The rule is a rule, but not at this opset."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """``attribute = @name``: an attribute of the rule, or a value of the body that is known when it is read."""

    name: str
    type: ir.AttributeType


@dataclasses.dataclass(frozen=True)
class BodyNode:
    """A node of a body. Inputs that are left out are None."""

    op_type: str
    domain: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, ir.Attr | Reference]

    @property
    def is_constant(self) -> bool:
        """Whether this is a Constant, whose value is a literal or an attribute of the rule."""
        return is_constant_node(self)


@dataclasses.dataclass(frozen=True)
class Body:
    """The nodes between two braces, in order."""

    nodes: tuple[BodyNode, ...]
    makers: Mapping[str, tuple[BodyNode, int]] = dataclasses.field(init=False, repr=False)
    """Which node makes a name, as which of its outputs."""

    def __post_init__(self) -> None:
        makers = {name: (node, place) for node in self.nodes for place, name in enumerate(node.outputs) if name}
        object.__setattr__(self, "makers", makers)

    def operations(self) -> tuple[BodyNode, ...]:
        """Return the nodes that are no constants."""
        return tuple(node for node in self.nodes if not node.is_constant)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Nodes that look like `match` may become `rewrite`, if `when` holds."""

    source: RuleText
    """What it was read from: its name, place, comment, text and signature. The bodies cannot be printed."""
    opset: int
    attributes: Mapping[str, ir.Attr | None]
    """Attributes of the rule, and what they are where a node lacks them (None: nothing); whole once `match` is read."""
    read_match: Callable[[], Body] = dataclasses.field(repr=False, compare=False)
    """Reads the match, which is needed only at nodes that pass its prefilter."""
    read_others: Callable[[], Mapping[str, Body]] = dataclasses.field(repr=False, compare=False)
    """Reads the bodies that are needed only where `match` matches, which most rules do nowhere."""

    @property
    def name(self) -> str:
        """The name, with the number of the alternative."""
        return self.source.name

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What it takes."""
        return self.source.parameters

    @property
    def results(self) -> tuple[Parameter, ...]:
        """What it gives."""
        return self.source.results

    @property
    def prefilter(self) -> Prefilter:
        """What the match needs of its surroundings, without reading it."""
        prefilter = self.source.prefilter
        assert prefilter is not None, "a rule whose match makes nothing is not read"
        return prefilter

    @functools.cached_property
    def match(self) -> Body:
        """What must stand there.

        Raises:
            RuleError: It does not read, or does not check at this opset; raised when it is first asked for.
        """
        return self.read_match()

    @functools.cached_property
    def _others(self) -> Mapping[str, Body]:
        return self.read_others()

    @property
    def rewrite(self) -> Body:
        """What may stand there instead.

        Raises:
            RuleError: As `match` does.
        """
        return self._others["rewrite"]

    @property
    def when(self) -> Body | None:
        """What must hold; None: nothing."""
        return self._others.get("when")

    def bodies(self) -> Iterator[tuple[str, Body]]:
        """Yield the bodies and what they are called in text."""
        yield "match", self.match
        yield "rewrite", self.rewrite
        if self.when is not None:
            yield "when", self.when
