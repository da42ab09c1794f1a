"""Why a rule does not apply at a node: a code and what it is about; `describe` puts it into words."""

from __future__ import annotations

import enum
from typing import NamedTuple

import onnx_ir as ir


class MismatchCode(str, enum.Enum):
    """What keeps a rule from being applied."""

    UNEXPECTED_INPUT = "unexpected-input"
    MISSING = "missing"
    TWO_VALUES = "two-values"
    OTHER_PRODUCER = "other-producer"
    OTHER_OP = "other-op"
    OTHER_GRAPH = "other-graph"
    TOO_FEW_OUTPUTS = "too-few-outputs"
    TWO_ATTRIBUTES = "two-attributes"
    OTHER_ATTRIBUTE = "other-attribute"
    EXTRA_ATTRIBUTE = "extra-attribute"
    NOT_CONSTANT = "not-constant"
    NO_LITERAL = "no-literal"
    OTHER_KIND = "other-kind"
    OTHER_LITERAL = "other-literal"
    GRAPH_OUTPUT = "graph-output"
    NEEDED_ELSEWHERE = "needed-elsewhere"
    INNER_PARAMETER = "inner-parameter"
    OTHER_TYPE = "other-type"
    OTHER_SIZE = "other-size"
    NO_FEWER_NODES = "no-fewer-nodes"
    NO_FEWER_BYTES = "no-fewer-bytes"
    SHARED_WEIGHT = "shared-weight"
    CONDITION = "condition"
    CONDITION_UNKNOWN = "condition-unknown"
    NOT_FINITE = "not-finite"
    UNKNOWN_SIZE = "unknown-size"
    NO_ATTRIBUTE = "no-attribute"
    REQUIRED_INPUT = "required-input"
    NOT_COMPUTABLE = "not-computable"


TEXTS = {
    MismatchCode.UNEXPECTED_INPUT: "{value} is there, where the pattern has nothing",
    MismatchCode.MISSING: "{0} is missing",
    MismatchCode.TWO_VALUES: "{0} would be two different values",
    MismatchCode.OTHER_PRODUCER: "{0} is made by no {1}",
    MismatchCode.OTHER_OP: "{node} is {1}, not {0}",
    MismatchCode.OTHER_GRAPH: "{node} lies in another graph",
    MismatchCode.TOO_FEW_OUTPUTS: "{node} has {0} outputs",
    MismatchCode.TWO_ATTRIBUTES: "@{0} would have two different values",
    MismatchCode.OTHER_ATTRIBUTE: "{0} of {node} is another",
    MismatchCode.EXTRA_ATTRIBUTE: "{node} has an attribute {0} that is not at its default",
    MismatchCode.NOT_CONSTANT: "{0} is not known",
    MismatchCode.NO_LITERAL: "{0} is no literal",
    MismatchCode.OTHER_KIND: "{0} is no {1}",
    MismatchCode.OTHER_LITERAL: "{0} has another value",
    MismatchCode.GRAPH_OUTPUT: "{value} is an output of the graph",
    MismatchCode.NEEDED_ELSEWHERE: "{value} is needed elsewhere",
    MismatchCode.INNER_PARAMETER: "{0} is a value inside the pattern",
    MismatchCode.OTHER_TYPE: "{0} has the type {1} and the shape {2}",
    MismatchCode.OTHER_SIZE: "{0} is {1}, not {2}",
    MismatchCode.NO_FEWER_NODES: "{0} nodes would stand for {1}",
    MismatchCode.NO_FEWER_BYTES: "it would cost as much as before",
    MismatchCode.SHARED_WEIGHT: "a large weight is shared, and would be stored twice",
    MismatchCode.CONDITION: "`when` does not hold",
    MismatchCode.CONDITION_UNKNOWN: "what `when` reads is not known",
    MismatchCode.NOT_FINITE: "a constant would not be finite any more",
    MismatchCode.UNKNOWN_SIZE: "the size of {0} is not known",
    MismatchCode.NO_ATTRIBUTE: "{0} stands for an attribute that is not there",
    MismatchCode.REQUIRED_INPUT: "{0} needs {1}, which is missing",
    MismatchCode.NOT_COMPUTABLE: "{0} (by {1}) cannot be computed here",
}
"""What each code says: ``{0}`` and so on are words of the rule, ``{node}`` and ``{value}`` those of the model."""

GENERAL_TEXTS = TEXTS | {
    MismatchCode.OTHER_TYPE: "{0} has a type or shape that the rule does not take",
    MismatchCode.OTHER_SIZE: "{0} is another size",
    MismatchCode.NO_FEWER_NODES: "no fewer nodes would be left: what it would compute ahead is not constant",
}
"""The same without figures of a model."""

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
    texts = GENERAL_TEXTS if general else TEXTS
    return texts[mismatch.code].format(*mismatch.words, node=node_text, value=value_text)
