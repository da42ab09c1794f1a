"""Proves rules: as programs that check, on random tensors, and at the very site where one is about to be applied.

A rule that is right only for some values says so in its types or in `when`; a draw for which they do not hold is
thrown away, as the drivers would leave such a site alone. What is left must run, and there must be something left: a
proof that never ran the left side fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxslim.rewrite.draw import Draw, NoProgram, Sample, Sampler
from onnxslim.rewrite.instantiate import BodyEvaluation, Instantiation
from onnxslim.rewrite.match import Match
from onnxslim.rewrite.program import CannotCompute, NotApplicable
from onnxslim.rewrite.reader import read_rules
from onnxslim.rewrite.rule import Rule, find_schema
from onnxslim.rewrite.signature import fits
from onnxslim.rewrite.site import GUESSES, is_guessed, run_after, run_before, site_feeds

Array = npt.NDArray[Any]

TOLERANCE: Mapping[str, float] = {"float64": 1e-9, "float32": 2e-4, "float16": 2e-2}
"""Relative to the largest element of the result. Sides sum in different orders and round intermediate weights: some ten
roundings of 6e-8 in float32, times the condition of what is computed, which `1/sqrt(var + epsilon)` and differences of
nearly equal numbers make some hundreds."""


class Disproved(AssertionError):
    """The sides of a rule differ, the right one does not run, or the left one never ran."""


class NeverRan(Disproved):
    """The left side never ran: no draw fitted, or ONNX Runtime has no kernels for it at this opset."""


@dataclasses.dataclass(frozen=True)
class Proof:
    """How much a property test of a rule has seen."""

    drawn: int
    ran: int
    """Draws on which the left side ran and the signature and `when` held; each was compared."""


def prove_static(text: str, opset: int, where: str = "<text>") -> tuple[Rule, ...]:
    """Read rules and check them as ONNX functions at an opset.

    Raises:
        RuleError: One does not read, or does not check.
    """
    return read_rules(text, opset, where)


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
    return Proof(counts["drawn"], counts["ran"])


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
    match = Match(rule, _nowhere(), values, sample.attributes)
    match.environment.update(_integers(sample))
    if fits((*rule.parameters, *rule.results), values, match.environment) is not None:
        return False

    def known(value: ir.Value | None) -> Array | None:
        return None if value is None or value.name not in rule_names else sample.arrays[value.name]

    rule_names = {parameter.name for parameter in rule.parameters}
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
            f"{rule.name} at opset {rule.opset}: the right side does not run: {error}\n{_told(sample)}"
        ) from error
    except NotApplicable:
        return False
    for name, array in made.items():
        expected = sample.arrays[name]
        if expected is not None and (why := difference(expected, array)) is not None:
            raise Disproved(f"{rule.name} at opset {rule.opset}: {name} {why}\n{_told(sample)}")
    return True


def _integers(sample: Sample) -> dict[str, int]:
    bound = {name: each.attribute for name, each in sample.attributes.items()}
    return {name: a.as_int() for name, a in bound.items() if a is not None and a.type is ir.AttributeType.INT}


def _value(name: str, array: Array | None) -> ir.Value | None:
    if array is None:
        return None
    kind = ir.DataType.STRING if array.dtype.kind in "OSU" else ir.DataType.from_numpy(array.dtype)
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(array.shape))


def _nowhere() -> ir.Node:
    return ir.Node("", "Identity", [])


def _told(sample: Sample) -> str:
    tensors = [f"{n}: {a.dtype}{list(a.shape)}" if a is not None else f"{n}: missing" for n, a in sample.arrays.items()]
    bound = [f"{n} = {b.attribute.value if b.attribute is not None else None}" for n, b in sample.attributes.items()]
    return ", ".join([*tensors, *bound])


def difference(expected: Array, got: Array) -> str | None:
    """Compare what the sides made. Returns None if they agree up to rounding, else how they differ."""
    if expected.shape != got.shape:
        return f"has the shape {list(got.shape)}, not {list(expected.shape)}"
    if expected.dtype != got.dtype:
        return f"has the type {got.dtype}, not {expected.dtype}"
    if expected.dtype.kind not in "fc":
        return None if np.array_equal(expected, got) else "has other elements"
    if not np.array_equal(np.isnan(expected), np.isnan(got)):
        return "is no number in other places"
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(got)) or not np.array_equal(
        expected[~finite], got[~finite], equal_nan=True
    ):
        return "is infinite in other places"
    if not finite.any():
        return None
    scale = max(1e-6, float(np.max(np.abs(expected[finite]))))
    worst = float(np.max(np.abs(expected[finite] - got[finite]))) / scale
    limit = TOLERANCE.get(str(expected.dtype), 2e-2)
    return None if worst <= limit else f"differs by {worst:.2g} of its largest element, more than {limit:g}"


def schema_versions(rule: Rule) -> tuple[tuple[str, int], ...]:
    """Return which versions of the ops a rule names at its opset: where these are equal, so is what the rule means."""
    names = {(node.domain, node.op_type) for _, body in rule.bodies() for node in body.operations()}
    schemas = ((name, find_schema(domain, name, rule.opset)) for domain, name in sorted(names))
    return tuple((name, int(schema.since_version) if schema is not None else 0) for name, schema in schemas)


@dataclasses.dataclass(frozen=True)
class SiteCheck:
    """What came of running a site and what would replace it."""

    ran: bool
    """Whether the site ran on what was drawn; if not, nothing can be said."""
    difference: str | None = None
    """How they differ, or None."""


def check_site(match: Match, plan: Instantiation, generator: np.random.Generator) -> SiteCheck:
    """Run a site and what would replace it on random data of the site's own types and shapes, and compare.

    Constants are what they are; symbolic dimensions get sizes, the same wherever a name occurs; what is not known of a
    shape is guessed, several times until the site runs.

    Args:
        match: The site.
        plan: What it would become.
        generator: Where random numbers come from.
    """
    for guess in GUESSES if is_guessed(match) else GUESSES[:1]:
        feeds = site_feeds(match, generator, guess)
        before = None if feeds is None else run_before(match, feeds)
        if feeds is None or before is None or not _as_declared(match, before):
            continue
        after = run_after(match, plan, feeds)
        if after is None:
            return SiteCheck(True, "what would replace it does not run")
        for result, old, new in zip(match.rule.results, before, after, strict=True):
            why = difference(old, new)
            if why is not None:
                return SiteCheck(True, f"{result.name} {why}")
        return SiteCheck(True)
    return SiteCheck(False)


def _as_declared(match: Match, results: list[Array]) -> bool:
    """Whether what a site made has the sizes that are known of its results: a guess may have missed them."""
    for value, array in zip(match.results(), results, strict=True):
        sizes = None if value.shape is None else [size if isinstance(size, int) else None for size in value.shape]
        if sizes is not None and len(sizes) != array.ndim:
            return False
        if any(size not in (None, have) for size, have in zip(sizes or (), array.shape, strict=False)):
            return False
    return True


def verify_site(match: Match, plan: Instantiation, generator: np.random.Generator) -> str | None:
    """Return how a site and what would replace it differ, as `check_site` finds out; None where nothing is known."""
    return check_site(match, plan, generator).difference
