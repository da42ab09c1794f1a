"""Property tests of rewrite rules: both sides run on random tensors in ONNX Runtime, and must agree.

A rule that holds only for some values says so in its types or in `when`; a draw for which they do not hold is thrown
away, as the drivers leave such a site alone. A proof fails where no draw is left. Needs hypothesis.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx.defs
import onnx.helper
import onnx_ir as ir

from onnxslim.analysis.evaluate import evaluate
from onnxslim.arrays import Array
from onnxslim.model.schemas import find_schema
from onnxslim.rewrite.instantiate import BodyEvaluation
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.mismatch import CannotCompute, NotApplicable
from onnxslim.rewrite.reader import load_rules, rule_files, rule_names
from onnxslim.rewrite.rule import Rule
from onnxslim.rewrite.signature import fits
from onnxslim.rewrite.site_check import difference
from onnxslim.testing.draw import Draw, NoProgram, Sample, Sampler

OLDEST_PROVED_OPSET = 7
"""Opsets from here on are tried; those before 11 only for a rule that applies at no newer one."""
FEW_KERNELS_OPSET = 10


class Disproved(AssertionError):
    """The sides of a rule differ, the right one does not run, or the left one never ran."""


class NeverRan(Disproved):
    """The left side never ran: no draw fitted, or ONNX Runtime has no kernels for it at this opset."""


@dataclasses.dataclass(frozen=True)
class Proof:
    """How much a property test of a rule has seen."""

    ran: int
    """Draws on which the left side ran and the signature and `when` held; each was compared."""


def prove_property(rule: Rule, *, examples: int = 20) -> Proof:
    """Run both sides of a rule on drawn tensors and compare. Needs hypothesis, which only tests depend on.

    Args:
        rule: The rule, at its opset.
        examples: On how many draws that fit.

    Raises:
        Disproved: The sides differ, with the smallest example that hypothesis found; or no draw fitted.
    """
    import hypothesis
    from hypothesis import strategies

    class DrawnOperands:
        def __init__(self, data: Any) -> None:
            self.data = data

        def integer(self, low: int, high: int) -> int:
            return int(self.data.draw(strategies.integers(low, high)))

        def choice(self, items: Any) -> Any:
            return items[self.integer(0, len(items) - 1)]

    counts = {"drawn": 0, "ran": 0}

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        print_blob=False,
    )
    @hypothesis.given(strategies.data())
    def holds(data: Any) -> None:
        counts["drawn"] += 1
        ran = compare_once(rule, DrawnOperands(data))
        hypothesis.assume(ran)
        counts["ran"] += 1

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # no draw fitted, which the counts tell
        holds()
    if not counts["ran"]:
        raise NeverRan(f"{rule.name}: the left side never ran in {counts['drawn']} draws")
    return Proof(counts["ran"])


def compare_once(rule: Rule, draw: Draw) -> bool:
    """Draw once and compare both sides. Returns False where the draw does not fit the rule.

    Raises:
        Disproved: The sides differ, or the right one does not run.
    """
    try:
        sample = Sampler(rule, draw).sample()
    except NoProgram:
        return False
    results = [array for r in rule.results if (array := sample.arrays[r.name]) is not None]
    if not any(array.size and (array.dtype.kind not in "f" or np.isfinite(array).any()) for array in results):
        return False
    values = {name: _value(name, array) for name, array in sample.arrays.items()}
    match = Match(rule, ir.Node("", "Identity", []), values, sample.attributes)
    match.environment.update(_integers(sample))
    if fits((*rule.parameters, *rule.results), values, match.environment) is not None:
        return False

    parameters = {parameter.name for parameter in rule.parameters}

    def known(value: ir.Value | None) -> Array | None:
        return None if value is None or value.name not in parameters else sample.arrays[value.name]

    try:
        if rule.when is not None and not BodyEvaluation(match, rule.when, known).holds():
            return False
    except NotApplicable:  # where it cannot be evaluated, the drivers leave the site alone
        return False
    try:
        right = BodyEvaluation(match, rule.rewrite, known, proof=True)
        made = {result.name: right.array(result.name) for result in rule.results}
    except CannotCompute as error:
        raise Disproved(
            f"{rule.name} at opset {rule.opset}: the right side does not run: {error}\n{_describe(sample)}"
        ) from error
    except NotApplicable:
        return False
    for name, array in made.items():
        expected = sample.arrays[name]
        if expected is not None and (why := difference(expected, array)) is not None:
            raise Disproved(f"{rule.name} at opset {rule.opset}: {name} {why}\n{_describe(sample)}")
    return True


def _integers(sample: Sample) -> dict[str, int]:
    attributes = {name: bound.attribute for name, bound in sample.attributes.items()}
    return {name: a.as_int() for name, a in attributes.items() if a is not None and a.type is ir.AttributeType.INT}


def _value(name: str, array: Array | None) -> ir.Value | None:
    if array is None:
        return None
    kind = ir.DataType.STRING if array.dtype.kind in "OSU" else ir.DataType.from_numpy(array.dtype)
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(array.shape))


def _describe(sample: Sample) -> str:
    tensors = [f"{n}: {a.dtype}{list(a.shape)}" if a is not None else f"{n}: missing" for n, a in sample.arrays.items()]
    bound = [f"{n} = {b.attribute.value if b.attribute is not None else None}" for n, b in sample.attributes.items()]
    return ", ".join([*tensors, *bound])


def rules_of(package: str) -> list[str]:
    """Return the names of all rules in the ``*.rules`` files of a package, whatever opset they are for."""
    return [name for file, text in rule_files(package) for name in rule_names(text, file)]


def prove_rule(package: str, name: str) -> tuple[int, ...]:
    """Prove one rule of a package at every version of its ops, from the newest opset with kernels down to the oldest.

    Most draws are made at the newest opset, and where a version takes other inputs or attributes than those before.

    Returns:
        The opsets that it was proved at; at the others its ops are of one of these versions.

    Raises:
        Disproved: The sides differ at one of them.
        NeverRan: It ran at none of them, or at a newer opset and not at an older one that it claims.
    """
    proved: dict[tuple[tuple[str, int], ...], int] = {}
    formals: set[tuple[object, ...]] = set()
    for opset in range(_newest_opset(), OLDEST_PROVED_OPSET - 1, -1):
        if opset <= FEW_KERNELS_OPSET and proved:
            break
        rule = next((rule for rule in load_rules(package, opset) if rule.name == name), None)
        if rule is None or schema_versions(rule) in proved:
            continue  # the same versions of the same ops mean the same
        try:
            prove_property(rule, examples=5 if not proved else 2 if _formals(rule) not in formals else 1)
        except NeverRan:
            if proved:
                raise
            continue
        proved[schema_versions(rule)] = opset
        formals.add(_formals(rule))
    if not proved:
        raise NeverRan(f"{name} applies at no opset from {OLDEST_PROVED_OPSET} on")
    return tuple(proved.values())


@functools.cache
def _newest_opset() -> int:
    """Return the newest opset that the installed onnx and ONNX Runtime both know."""
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    feeds = {"x": np.zeros(1, np.float32)}
    opsets = range(onnx.defs.onnx_opset_version(), 17, -1)
    return next(opset for opset in opsets if evaluate([node], feeds, ["y"], {"": opset}, reference=False))


def _schemas(rule: Rule) -> Iterator[tuple[str, onnx.defs.OpSchema | None]]:
    for domain, op_type in sorted({(node.domain, node.op_type) for _, b in rule.bodies() for node in b.operations()}):
        yield op_type, find_schema(domain, op_type, rule.opset)


def schema_versions(rule: Rule) -> tuple[tuple[str, int], ...]:
    """Return which versions of the ops a rule names at its opset: where these are equal, so is what the rule means."""
    return tuple((op_type, int(schema.since_version) if schema else 0) for op_type, schema in _schemas(rule))


def _formals(rule: Rule) -> tuple[object, ...]:
    """Return what the ops of a rule take at its opset, but for element types: most new versions only add some."""
    result: list[object] = []
    for op_type, schema in _schemas(rule):
        if schema is not None:
            attributes = [(a.name, str(a.type), str(a.default_value), a.required) for a in schema.attributes.values()]
            operands = [(formal.name, str(formal.option)) for formal in (*schema.inputs, *schema.outputs)]
            result.append((op_type, tuple(sorted(attributes)), tuple(operands)))
    return tuple(result)
