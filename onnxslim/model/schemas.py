"""The schemas of operators, and the check of nodes against them when a model is opened."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import onnx
import onnx_ir as ir

from onnxslim.errors import ModelUnreadable
from onnxslim.model.checking import HINT, describe_node
from onnxslim.model.constants import is_constant_node
from onnxslim.model.nesting import graphs_within, main_graphs

UNBOUNDED = 2**31 - 1
"""Maximum of inputs or outputs in the schema of an operator that takes any number."""


def check_signatures(model: ir.Model, path: pathlib.Path) -> None:
    """Check that every node has the inputs, outputs and attributes of its operator.

    Operators without a schema are skipped. Functions should be inlined first: an attribute that a call omits may be
    one that a node in the body requires. Source: ONNX operator schemas (docs/Operators.md).

    Raises:
        ModelUnreadable: A node has too many or too few inputs or outputs, lacks an attribute, or has one of another
            type; or its operator is newer than the opset of the model.
    """
    parts = [(model.opset_imports, graph) for graph in main_graphs(model)]
    for function in model.functions.values():
        parts += [({**model.opset_imports, **function.opset_imports}, graph) for graph in graphs_within(function.graph)]
    for opsets, graph in parts:
        versions = {"" if domain == "ai.onnx" else domain: version for domain, version in opsets.items()}
        for node in graph:
            domain = "" if node.domain == "ai.onnx" else node.domain
            signature = _signature(domain, node.op_type, versions[domain]) if domain in versions else None
            wrong = (
                _too_new(domain, node.op_type, versions.get(domain)) if signature is None else signature.against(node)
            )
            if wrong:
                raise ModelUnreadable(f"{describe_node(node.name, node.op_type)} {wrong}", where=path, hint=HINT)


@dataclasses.dataclass(frozen=True)
class _Signature:
    """Inputs, outputs and attributes of an operator in one version of its operator set."""

    inputs: tuple[int, int]
    """(minimum, maximum) of their number."""
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    """Name -> type, a number of `onnx.AttributeProto.AttributeType`."""
    required: frozenset[str]
    """Names of the required attributes."""

    def against(self, node: ir.Node) -> str:
        """Return the first violation of a node, as text; empty if there is none."""
        for kind, found, (minimum, maximum) in (
            ("inputs", len(node.inputs), self.inputs),
            ("outputs", len(node.outputs), self.outputs),
        ):
            if not minimum <= found <= maximum:
                takes = (
                    f"{minimum} or more" if maximum == UNBOUNDED else " to ".join(map(str, sorted({minimum, maximum})))
                )
                return f"has {found} {kind}, and its operator takes {takes}"
        for name, attribute in node.attributes.items():
            expected = self.attributes.get(name, attribute.type.value)
            if attribute.type.value != expected:
                kind = ir.AttributeType(expected).name.lower()
                return f"has the attribute {name!r} as {attribute.type.name.lower()}, and its operator takes {kind}"
        for name in sorted(self.required - node.attributes.keys()):
            return f"lacks the attribute {name!r}"
        if is_constant_node(node) and not node.attributes:
            return "holds no constant"
        return ""


def _too_new(domain: str, op_type: str, version: int | None) -> str:
    """Return the violation if an operator is newer than `version` of its operator set; else empty."""
    if version is None or not onnx.defs.has(op_type, domain=domain):
        return ""
    return f"is no operator of opset {version}, which the model names"


@functools.cache
def find_schema(domain: str, op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    """Return the schema of an op at an opset, or None where there is none."""
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


@functools.cache
def _signature(domain: str, op_type: str, version: int) -> _Signature | None:
    schema = find_schema(domain, op_type, version)
    if schema is None:
        return None
    types = {name: formal.type.value for name, formal in schema.attributes.items()}  # type: ignore[attr-defined]
    required = frozenset(name for name, formal in schema.attributes.items() if formal.required)
    return _Signature((schema.min_input, schema.max_input), (schema.min_output, schema.max_output), types, required)
