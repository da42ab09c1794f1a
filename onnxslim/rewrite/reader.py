"""Reads rules: one signature, and bodies in ONNX's own text.

    # Two rectifiers are one.
    relu_relu (x) => (y)
    match   { a = Relu (x)  y = Relu (a) }
    rewrite { y = Relu (x) }

A rule is ``name <attributes> (parameters) => (results)``, then ``match``, an optional ``when`` and ``rewrite``. On top
of ONNX text:

- inputs may be calls, literals and attributes, and there are infix operators: see `onnxslim.rewrite.expression`;
- ``match { ... } or { ... }``: an alternative; each is a rule of its own (``name``, ``name_2``, ...);
- ``name for F = Relu | Tanh (x) => (y)``: a rule for each, ``name_relu`` and ``name_tanh``, where the word F stands for
  the op; ``for F G = ReduceMin Min | ReduceMax Max`` puts words in step;

- ``Conv <...>`` stands for whatever attributes the op has, the same on both sides; ``Conv <group = @group, ...>`` for
  all others;
- ``@name`` is an attribute of the rule, or a value of the body (or a parameter) that is known once it is folded;
- an attribute that a pattern does not name must be at its default;
- a ``Constant`` of one element in ``match`` stands for a known tensor all of whose elements are equal to it, of any
  shape and element type; in ``rewrite``, a literal takes the element type of the tensors that it meets;
- ``when`` has the result ``ok`` and is evaluated by folding: what it reads must be known, and every element of ``ok``
  must be true. Shapes are known where they are static;
- types, sizes and ``= 0``: see `onnxslim.rewrite.signature`.

A rule is checked at the opset of a model, by `onnx.checker` and for names that nobody declared. What does not check at
this opset (an op that is not there yet, ``axes`` that are still an attribute) is skipped for the model; what is no rule
at all is an error.
"""

from __future__ import annotations

import functools
import importlib.resources
import itertools
import re
from collections.abc import Mapping

import onnx
import onnx.checker
import onnx.defs
import onnx.parser
import onnx_ir as ir

from onnxslim.errors import RuleError
from onnxslim.model.constants import is_constant_node
from onnxslim.model.schemas import find_schema
from onnxslim.rewrite.rule import IMPORTED_VERSION, Body, BodyNode, DoesNotCheck, Reference, Rule
from onnxslim.rewrite.source import CALLED, RuleTemplate, RuleText, split_rules, split_templates

OPERATION = re.compile(r"(?P<op>[A-Za-z_][\w.]*)\s*<(?P<attributes>[^<>]*\.\.\.[^<>]*)>")
OLD_CONSTANT = 12
"""Constant has ``value_ints`` and the like since this opset; before, it is checked as if it held a tensor."""

CONSTANT_TYPES = {
    "value": ir.AttributeType.TENSOR,
    "value_float": ir.AttributeType.FLOAT,
    "value_floats": ir.AttributeType.FLOATS,
    "value_int": ir.AttributeType.INT,
    "value_ints": ir.AttributeType.INTS,
    "value_string": ir.AttributeType.STRING,
    "value_strings": ir.AttributeType.STRINGS,
}
"""The attributes of Constant: its schema has most of them only since `OLD_CONSTANT`."""


def read_rules(text: str, opset: int, where: str = "<text>") -> tuple[Rule, ...]:
    """Read all rules in `text`.

    Raises:
        RuleError: One of them is no rule, or does not check at `opset`; the error names file and line.
    """
    rules = tuple(_compile(source, opset) for source in split_rules(text, where))
    for rule in rules:
        _ = rule.rewrite  # what is wrong with it is known here
    return rules


def load_rules(package: str, opset: int, ops: frozenset[str] | None = None) -> tuple[Rule, ...]:
    """Return the rules of the ``*.rules`` files of a package, in the order of their names.

    Args:
        package: Where the files are.
        opset: Of the model.
        ops: The ops of the model: rules for ops that are not there are left out. Whoever rewrites asks again when
            there are others. Those that are there are glanced at; their bodies, which may not check at this opset, are
            read where they are asked for. None: all rules that check at this opset, read whole.

    Raises:
        RuleError: A file holds what is no rule at all, or names no op of ONNX; or there is no such file.
    """
    compiled, templates = _compiled(package, opset), _templates(package)
    if ops is None:
        sources = [source for template in templates for source in template.rules]
    else:
        present = (template for template in templates if template.demands <= ops)
        sources = [source for template in present for source in template.rules if source.demands <= ops]
    for source in sources:
        if (source.file, source.name) not in compiled:
            compiled[source.file, source.name] = _compile(source, opset)
    rules = (compiled[source.file, source.name] for source in sources)
    return tuple(rules if ops is not None else filter(_checks, rules))


@functools.lru_cache(maxsize=64)
def _compiled(package: str, opset: int) -> dict[tuple[str, str], Rule]:
    """Return what was read of a package so far, by file and name; `load_rules` fills it."""
    return {}


@functools.lru_cache(maxsize=16)
def _templates(package: str) -> tuple[RuleTemplate, ...]:
    files = rule_files(package)
    if not files:
        raise RuleError(
            "there is no *.rules file in it",
            where=package,
            hint='declare them, or they are not installed: [tool.setuptools.package-data] package = ["*.rules"]',
        )
    templates = tuple(template for file, text in files for template in split_templates(text, file))
    for template in templates:
        _check_ops(template)
    return templates


def _check_ops(template: RuleTemplate) -> None:
    """Refuse names of ops that ONNX has in no version: the rule would be skipped at every opset, without a word."""
    bodies = [text for _, text in (*template.head.bodies.values(), *template.alternatives)]
    called = {op for text in bodies for op in CALLED.findall(text)} - {*template.words}
    unknown = sorted(op for op in {*called, *itertools.chain(*template.choices)} if not onnx.defs.has(op))
    if unknown:
        raise RuleError(
            f"the rule {template.head.name} calls {unknown[0]}, which ONNX has in no version",
            where=template.head.where,
            hint="check how it is spelt; an op of another domain is written domain.Op",
        )


def _checks(rule: Rule) -> bool:
    """Whether all bodies of a rule check at its opset."""
    try:
        return bool(rule.rewrite)
    except DoesNotCheck:
        return False


def rule_files(package: str) -> tuple[tuple[str, str], ...]:
    """Return name and text of each ``*.rules`` file of a package, sorted by name."""
    files = [file for file in importlib.resources.files(package).iterdir() if file.name.endswith(".rules")]
    return tuple((file.name, file.read_text(encoding="utf-8")) for file in sorted(files, key=lambda file: file.name))


def rule_names(text: str, where: str) -> tuple[str, ...]:
    """Return the names of the rules in `text`, whatever opset they are for."""
    return tuple(source.name for source in split_rules(text, where))


def _compile(source: RuleText, opset: int) -> Rule:
    """Make a rule at an opset; only the prefilter is read here, the bodies on first use."""
    if source.prefilter is None:
        raise RuleError(
            f"the match of {source.name} does not make {source.given.strip() or 'anything'}",
            where=source.where,
            hint="let a node of match make each result",
        )
    attributes: dict[str, ir.Attr | None] = {}
    kinds: dict[str, ir.AttributeType] = {}

    def read(word: str) -> Body:
        names = [parameter.name for parameter in source.parameters]
        results = ["ok"] if word == "when" else [result.name for result in source.results]
        passed: dict[str, ir.Attr | None] = {}
        expanded = OPERATION.sub(lambda match: _expand(match, opset, passed, source), source.written(word))
        attributes.update(passed)
        return _body(source, word, source.bodies[word][0], expanded, names, results, opset, attributes, kinds)

    def read_match() -> Body:
        attributes.update(_declared(source))
        return read("match")

    def read_others() -> dict[str, Body]:
        match = rule.match  # first: it says what the attributes are
        others = {word: read(word) for word in source.bodies if word != "match"}
        _check_reach(rule, {"match": match, **others})
        return others

    rule = Rule(source, opset, attributes, read_match, read_others)
    return rule


def _declared(source: RuleText) -> dict[str, ir.Attr | None]:
    """Read ``<epsilon, pads: ints = [0, 0]>``."""
    if not source.attributes:
        return {}
    text = f'<ir_version: 10, opset_import: ["" : 21]> _ () => () {{ }} f <{source.attributes}> () => () {{ }}'
    function = _parse(text, source, source.line - 1)
    defaults = {proto.name: ir.from_proto(proto) for proto in function.attribute_proto}
    return {**dict.fromkeys(function.attribute), **defaults}


def _parse(text: str, source: RuleText, line: int) -> onnx.FunctionProto:
    try:
        function: onnx.FunctionProto = onnx.parser.parse_model("\n" * line + text).functions[0]
        return function
    except onnx.parser.ParseError as error:
        message = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error.args[0])
        place = re.search(r"line: (\d+)", message)
        what = [part for part in message.splitlines() if part and not part.startswith("[ParseError")]
        raise RuleError(
            f"the rule {source.name} does not read: {what[-1] if what else message}",
            where=f"{source.file}:{place[1] if place else source.line}",
            hint=what[0] if len(what) > 1 else None,
        ) from error


def _expand(match: re.Match[str], opset: int, passed: dict[str, ir.Attr | None], source: RuleText) -> str:
    """Write out ``Conv <...>``: each attribute of the op that is not named gets a name of its own."""
    op, own = match["op"], [piece.strip() for piece in match["attributes"].split(",")]
    schema = find_schema("", op, opset)
    if schema is None:
        raise DoesNotCheck(f"there is no {op} at opset {opset}", where=source.where)
    if "..." in own:
        own.remove("...")
    named = {piece.partition("=")[0].strip() for piece in own}
    others = [name for name in sorted(schema.attributes) if name not in named]
    passed.update({f"{op}_{name}": None for name in others})
    written = [*own, *(f"{name} = @{op}_{name}" for name in others)]
    return (f"{op} <{', '.join(written)}>" if written else op) + "\n" * match[0].count("\n")


def _body(
    source: RuleText,
    word: str,
    line: int,
    text: str,
    parameters: list[str],
    results: list[str],
    opset: int,
    attributes: Mapping[str, ir.Attr | None],
    kinds: dict[str, ir.AttributeType],
) -> Body:
    head = f'<ir_version: 10, opset_import: ["" : {opset}]> _ () => () {{ }} {word} '
    function = _parse(f"{head}({', '.join(parameters)}) => ({', '.join(results)}) {text}", source, line)
    function.domain = f"onnxslim.{word}"
    domains = {"": opset, **{node.domain: IMPORTED_VERSION for node in function.node if node.domain}}
    for domain, version in domains.items():
        function.opset_import.add(domain=domain, version=version)
    function.attribute.extend(name for name in attributes if name not in function.attribute)
    known = {*attributes, *parameters, *(name for node in function.node for name in node.output)}
    unmade = next((name for node in function.node for name in node.input if name and name not in known), None)
    if unmade is not None:
        raise RuleError(
            f"the rule {source.name} reads {unmade} in {word}, which is no parameter, and no node makes it",
            where=source.where,
            hint="check how it is spelt",
        )
    for node in sorted(function.node, key=lambda node: is_constant_node(node)):  # these are what others say
        for attribute in node.attribute:
            if attribute.ref_attr_name and attribute.ref_attr_name not in known:
                raise RuleError(
                    f"the rule {source.name} uses @{attribute.ref_attr_name}, which nobody declares",
                    where=source.where,
                    hint=f"write {source.name} <{attribute.ref_attr_name}> (...), or name a value of the body",
                )
            if not attribute.ref_attr_name:
                continue
            kind = kinds.get(attribute.ref_attr_name)
            if kind is not None and is_constant_node(node) and attribute.name == "value":
                attribute.name = next(name for name, declared in CONSTANT_TYPES.items() if declared is kind)
            attribute.type = int(_attribute_type(node, attribute.name, opset, source))
            if attribute.ref_attr_name in attributes:
                kinds.setdefault(attribute.ref_attr_name, ir.AttributeType(attribute.type))
    _check(function, domains, opset, source)
    return Body(tuple(_node(node) for node in function.node))


def _attribute_type(node: onnx.NodeProto, name: str, opset: int, source: RuleText) -> ir.AttributeType:
    if is_constant_node(node) and name in CONSTANT_TYPES:
        return CONSTANT_TYPES[name]
    schema = find_schema(node.domain, node.op_type, opset)
    if schema is None or name not in schema.attributes:
        raise DoesNotCheck(f"{node.op_type} has no attribute {name} at opset {opset}", where=source.where)
    return ir.AttributeType[str(schema.attributes[name].type).rpartition(".")[2]]


def _check(function: onnx.FunctionProto, domains: Mapping[str, int], opset: int, source: RuleText) -> None:
    checked = onnx.FunctionProto()
    checked.CopyFrom(function)
    if opset < OLD_CONSTANT:
        for node in checked.node:
            if is_constant_node(node):
                del node.attribute[:]
                node.attribute.append(onnx.helper.make_attribute("value", onnx.helper.make_tensor("", 1, [], [0.0])))
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 10, dict(domains)
    try:
        onnx.checker.check_function(checked, context)
    except onnx.checker.ValidationError as error:
        lines = str(error).strip().splitlines()
        raise DoesNotCheck(
            f"the rule {source.name} does not check at opset {opset}: {lines[0]}", where=source.where
        ) from error


def _node(proto: onnx.NodeProto) -> BodyNode:
    attributes: dict[str, ir.Attr | Reference] = {}
    for attribute in proto.attribute:
        if attribute.ref_attr_name:
            attributes[attribute.name] = Reference(attribute.ref_attr_name, ir.AttributeType(attribute.type))
        else:
            attributes[attribute.name] = ir.from_proto(attribute)
    inputs = tuple(name or None for name in proto.input)
    return BodyNode(proto.op_type, proto.domain, inputs, tuple(proto.output), attributes)


def _check_reach(rule: Rule, bodies: Mapping[str, Body]) -> None:
    """Matching walks up from the first result: it must come by every node of the pattern, and be told everything."""
    reached: set[str] = set()
    waiting = [rule.results[0].name]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        if name in rule.match.makers:
            node = rule.match.makers[name][0]
            reached.update(node.outputs)
            waiting += [operand for operand in node.inputs if operand is not None]
    lost = [name for node in rule.match.nodes for name in node.outputs if name not in reached]
    if lost:
        raise RuleError(
            f"the rule {rule.name} cannot be matched: {lost[0]} does not lead to {rule.results[0].name}",
            where=rule.source.where,
            hint="let the first result depend on every node of match",
        )
    used = {name for body in bodies.values() for node in body.nodes for name in node.inputs}
    unseen = [p.name for p in rule.parameters if p.name in used and p.name not in reached]
    if unseen:
        raise RuleError(
            f"the rule {rule.name} does not match its parameter {unseen[0]}",
            where=rule.source.where,
            hint="use it in match",
        )
    bound = {a.name for node in rule.match.nodes for a in node.attributes.values() if isinstance(a, Reference)}
    free = [
        attribute.name
        for body in bodies.values()
        for node in body.nodes
        for attribute in node.attributes.values()
        if isinstance(attribute, Reference) and attribute.name in rule.attributes and attribute.name not in bound
    ]
    if free:
        op, _, name = free[0].partition("_")
        written_out = free[0] not in _declared(rule.source) and onnx.defs.has(op)
        used_by = f"{op} <...>" if written_out else f"@{free[0]}"
        raise RuleError(
            f"the rule {rule.name} uses {used_by}, which its match does not bind",
            where=rule.source.where,
            hint=f"declare and name the attributes: {op} <{name} = @{name}>" if written_out else "bind it",
        )
