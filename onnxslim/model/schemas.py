"""Whether nodes are as the schemas of their operators say, checked when a model is opened."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import onnx
import onnx_ir as ir

from onnxslim.errors import ModelUnreadable
from onnxslim.model.checking import HINT, describe_node
from onnxslim.model.nesting import graphs_within, main_graphs
from onnxslim.ops.traits import Trait, has

UNBOUNDED = 2**31 - 1
"""The most inputs or outputs, in a schema, of an operator that takes any number."""


def check_signatures(model: ir.Model, path: pathlib.Path) -> None:
    """Check that each node has the inputs, outputs and attributes that its operator takes.

    Source: ONNX operator schemas (docs/Operators.md). Operators that have no schema are passed over. Functions should
    have been inlined: what a call does not give its function may be what a node cannot do without.

    Raises:
        ModelUnreadable: One has more inputs or outputs, or fewer, lacks an attribute, or has one of another type; its
            operator is not yet in the set that the model names.
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
    """What an operator takes, in one version of its set."""

    inputs: tuple[int, int]
    """The fewest and the most."""
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    """Their types, as numbers of `onnx.AttributeProto.AttributeType`."""
    required: frozenset[str]
    """Those that must be there."""

    def against(self, node: ir.Node) -> str:
        """Return what is wrong with a node; empty where nothing is."""
        for kind, found, (least, most) in (
            ("inputs", len(node.inputs), self.inputs),
            ("outputs", len(node.outputs), self.outputs),
        ):
            if not least <= found <= most:
                takes = f"{least} or more" if most == UNBOUNDED else " to ".join(map(str, sorted({least, most})))
                return f"has {found} {kind}, and its operator takes {takes}"
        for name, attribute in node.attributes.items():
            wanted = self.attributes.get(name, attribute.type.value)
            if attribute.type.value != wanted:
                kind = ir.AttributeType(wanted).name.lower()
                return f"has the attribute {name!r} as {attribute.type.name.lower()}, and its operator takes {kind}"
        for name in sorted(self.required - node.attributes.keys()):
            return f"lacks the attribute {name!r}"
        if has(node, Trait.LITERAL) and not node.attributes:
            return "holds no constant"
        return ""


def _too_new(domain: str, op_type: str, version: int | None) -> str:
    """Return what is wrong where an operator only came with a later version of its set; empty where it did not."""
    if version is None or not onnx.defs.has(op_type, domain=domain):
        return ""
    return f"is no operator of opset {version}, which the model names"


@functools.cache
def _signature(domain: str, op_type: str, version: int) -> _Signature | None:
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    types = {name: each.type.value for name, each in schema.attributes.items()}  # type: ignore[attr-defined]
    required = frozenset(name for name, each in schema.attributes.items() if each.required)
    return _Signature((schema.min_input, schema.max_input), (schema.min_output, schema.max_output), types, required)
