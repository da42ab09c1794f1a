"""Why a rule does not apply at a node: a code and what it is about; `describe` puts it into words."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from onnxslim.diagnostic import Code


class MismatchCode(Code):
    """What keeps a rule from being applied.

    In the texts ``{0}`` and so on are words of the rule, ``{node}`` and ``{value}`` those of the model.
    """

    UNEXPECTED_INPUT = "{value} is there, where the pattern has nothing"
    MISSING = "{0} is missing"
    TWO_VALUES = "{0} would be two different values"
    OTHER_PRODUCER = "{0} is made by no {1}"
    OTHER_OP = "{node} is {1}, not {0}"
    OTHER_GRAPH = "{node} lies in another graph"
    TOO_FEW_OUTPUTS = "{node} has {0} outputs"
    TWO_ATTRIBUTES = "@{0} would have two different values"
    OTHER_ATTRIBUTE = "{0} of {node} is another"
    EXTRA_ATTRIBUTE = "{node} has an attribute {0} that is not at its default"
    NOT_CONSTANT = "{0} is not known"
    NO_LITERAL = "{0} is no literal"
    OTHER_KIND = "{0} is no {1}"
    OTHER_LITERAL = "{0} has another value"
    GRAPH_OUTPUT = "{value} is an output of the graph"
    NEEDED_ELSEWHERE = "{value} is needed elsewhere"
    INNER_PARAMETER = "{0} is a value inside the pattern"
    OTHER_TYPE = "{0} has the type {1} and the shape {2}"
    OTHER_SIZE = "{0} is {1}, not {2}"
    NO_FEWER_NODES = "{0} nodes would stand for {1}"
    NO_FEWER_BYTES = "it would cost as much as before"
    SHARED_WEIGHT = "a large weight is shared, and would be stored twice"
    CONDITION = "`when` does not hold"
    CONDITION_UNKNOWN = "what `when` reads is not known"
    NOT_FINITE = "a constant would not be finite any more"
    UNKNOWN_SIZE = "the size of {0} is not known"
    NO_ATTRIBUTE = "{0} stands for an attribute that is not there"
    REQUIRED_INPUT = "{0} needs {1}, which is missing"
    NOT_COMPUTABLE = "{0} (by {1}) cannot be computed here"


GENERAL_TEXTS = {
    MismatchCode.OTHER_TYPE: "{0} has a type or shape that the rule does not take",
    MismatchCode.OTHER_SIZE: "{0} is another size",
    MismatchCode.NO_FEWER_NODES: "no fewer nodes would be left: what it would compute ahead is not constant",
}
"""Texts without the figures of a model, where the code has some."""

ABSENT = frozenset(
    {
        MismatchCode.UNEXPECTED_INPUT,
        MismatchCode.MISSING,
        MismatchCode.TWO_VALUES,
        MismatchCode.OTHER_PRODUCER,
        MismatchCode.OTHER_OP,
        MismatchCode.TOO_FEW_OUTPUTS,
        MismatchCode.TWO_ATTRIBUTES,
        MismatchCode.NOT_CONSTANT,
        MismatchCode.NO_LITERAL,
        MismatchCode.OTHER_KIND,
        MismatchCode.OTHER_LITERAL,
        MismatchCode.INNER_PARAMETER,
    }
)
"""Codes of a match that say that the pattern is not there at all."""


class Mismatch(NamedTuple):
    """Why a rule does not apply at a node."""

    code: MismatchCode
    words: tuple[object, ...] = ()
    """Names of the rule, and figures."""
    node: ir.Node | None = None
    value: ir.Value | None = None


class NotApplicable(Exception):  # no error: a rule that finds it has nothing to do here
    """The rule does not apply at this site."""

    def __init__(self, code: MismatchCode, *words: object) -> None:
        super().__init__(code, *words)
        self.mismatch = Mismatch(code, words)

    def __str__(self) -> str:
        return describe(self.mismatch)


class CannotCompute(NotApplicable):
    """ONNX Runtime and the reference implementation cannot compute what the right side wants folded."""


def describe(mismatch: Mismatch, *, general: bool = False) -> str:
    """Return a mismatch in words.

    Args:
        mismatch: What to describe.
        general: Leave the names of the model out, so that the same reason is the same text everywhere.
    """
    node, value = mismatch.node, mismatch.value
    maker = None if value is None else value.producer()
    if general:
        node_text = "" if node is None else f"the {node.op_type}"
        value_text = "an input" if maker is None else f"the {maker.op_type}'s output"
    else:
        node_text = "" if node is None else node.name or f"the {node.op_type}"
        value_text = "" if value is None else value.name or ""
    text = GENERAL_TEXTS.get(mismatch.code, mismatch.code.value) if general else mismatch.code.value
    return text.format(*mismatch.words, node=node_text, value=value_text)
