"""Reads `ops.axes`: the one table that says what every op does to the axes of its inputs and outputs."""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Iterable, Iterator, Mapping

from onnxslim.errors import RuleError

OpName = tuple[str, str]
"""(domain, op type); the domain of ONNX itself is ``""``."""


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One axis of an operand, or, with `ellipsis`, any number of axes."""

    factors: tuple[str, ...]
    """Letters, or numbers as digits, the slowest first. The axis is as long as their product."""
    ellipsis: bool = False


@dataclasses.dataclass(frozen=True)
class Operand:
    """One input or output of an op."""

    name: str
    dimensions: tuple[Dimension, ...]
    broadcasts: bool = False
    """It may have fewer axes than it declares (aligned at the right), or axes of size 1."""
    ignored: bool = False
    """It has no part in the axes of the op."""
    absent: bool = False
    """The row holds only where the node leaves it out."""

    @functools.cached_property
    def channels(self) -> frozenset[str]:
        """Factors that lie on an axis of their own, not in an ellipsis."""
        return frozenset(factor for axis in self.dimensions if not axis.ellipsis for factor in axis.factors)

    @functools.cached_property
    def _fixed(self) -> int:
        return sum(not dimension.ellipsis for dimension in self.dimensions)

    def fits(self, rank: int) -> bool:
        """Whether a tensor of this rank can stand here."""
        if self.absent or self.ignored or rank == self._fixed:
            return not self.absent
        return self.broadcasts if rank < self._fixed else self._fixed < len(self.dimensions)

    def axes(self, rank: int) -> tuple[tuple[Dimension, int], ...]:
        """Return for each of `rank` axes its dimension and, for an ellipsis, its place from the right, 1 the last."""
        result: list[tuple[Dimension, int]] = []
        for dimension in self.dimensions:
            if dimension.ellipsis:
                result += [(dimension, place) for place in range(rank - self._fixed, 0, -1)]
            else:
                result.append((dimension, 0))
        return tuple(result[len(result) - rank :])


@dataclasses.dataclass(frozen=True)
class Signature:
    """One row of the table."""

    op: OpName
    kind: str = ""
    """The word of a structure, ``broadcast`` or ``concat``; empty where the operands are spelled out."""
    inputs: tuple[Operand, ...] = ()
    outputs: tuple[Operand, ...] = ()
    where: tuple[tuple[str, int | str], ...] = ()
    """(attribute, value): the row holds where the attributes have these values."""
    binds: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(attribute, factors): the attribute is the size of their product; 0 or none says nothing."""
    scales: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(attribute, factors): where the attribute is left out, or 0, it is one over the root of their product."""
    reason: str = ""
    """Why all axes are frozen, where `kind` is ``frozen``."""
    macs: tuple[tuple[str, ...], ...] = ()
    """A sum of products of factors; empty where the op multiplies nothing by weights."""
    mixed: frozenset[str] = frozenset()
    """Factors along which the op mixes."""
    fixed: frozenset[str] = frozenset()
    """Factors that are never cut: those marked ``!``, numbers, and those that stand in one place only."""

    @functools.cached_property
    def reaching(self) -> frozenset[str]:
        """Factors of the outputs; the op sums over all others."""
        axes = (axis for operand in self.outputs for axis in operand.dimensions)
        return frozenset(factor for axis in axes for factor in axis.factors)

    @functools.cached_property
    def channels(self) -> frozenset[str]:
        """Factors of the outputs that lie on an axis of their own, not in an ellipsis."""
        return frozenset().union(*(operand.channels for operand in self.outputs))

    @functools.cached_property
    def invents_axes(self) -> bool:
        """Whether an output has a run of axes that no input has: the row does not say how many there are."""
        known = {axis.factors for operand in self.inputs for axis in operand.dimensions}
        return any(
            axis.ellipsis and axis.factors not in known for operand in self.outputs for axis in operand.dimensions
        )


_ROW = re.compile(
    r"(?P<op>[\w.]+(?:::\w+)?)(?:<(?P<attributes>[^>]*)>)?\s+(?P<inputs>.*?)\s*->\s*(?P<outputs>[^:]*?)\s*(?::\s*(?P<macs>.*))?$"
)
KIND = re.compile(r"(?P<kind>[a-z]+)(?:\s+\((?P<reason>[^)]+)\))?:\s+(?P<ops>.+)$")
_OPERAND = re.compile(
    r"(?P<name>\w+)(?P<open>[\[{])(?P<axes>[^\]}]*)[\]}]|(?P<ignored>_)(?!\w)|(?P<absent>-)(?!>)|(?P<junk>\S)"
)
_SCALE = re.compile(r"1/sqrt\((?P<factors>[^)]+)\)$")
_DIMENSION = re.compile(r"(?P<ellipsis>\.\.\.)?(?P<factors>[~!]?\w+(\*[~!]?\w+)*)$")


def op_name(text: str) -> OpName:
    """Return (domain, op type) of ``Conv`` or ``com.microsoft::FusedConv``."""
    domain, _, op_type = text.rpartition("::")
    return domain, op_type


class SignatureTable(Mapping[OpName, tuple[Signature, ...]]):
    """The rows of each op, read where the op is asked for: a model has few of the ops that there are.

    Args:
        text: The table, in the notation of `ops.axes`.
        where: What it is called in messages.
    """

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._lines: dict[OpName, list[tuple[int, str]]] = {}
        self._read: dict[OpName, tuple[Signature, ...]] = {}
        for number, raw in enumerate(text.splitlines(), start=1):
            line = raw.partition("#")[0].strip()
            if not line or line.startswith("trait "):
                continue
            kind = KIND.match(line)
            for op in kind["ops"].split() if kind else re.split(r"[<\s]", line, maxsplit=1)[:1]:
                self._lines.setdefault(op_name(op), []).append((number, line))

    def __getitem__(self, op: OpName) -> tuple[Signature, ...]:
        """Return the rows of an op.

        Raises:
            KeyError: It has none.
            RuleError: One of them does not read; the message names the line.
        """
        if op not in self._read:
            self._read[op] = tuple(_signature(line, op, f"{self._where}:{number}") for number, line in self._lines[op])
        return self._read[op]

    def __iter__(self) -> Iterator[OpName]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


@functools.cache
def table_text() -> str:
    """Return the text of `ops.axes`."""
    return importlib.resources.files("onnxslim.ops").joinpath("ops.axes").read_text(encoding="utf-8")


@functools.cache
def signatures() -> Mapping[OpName, tuple[Signature, ...]]:
    """Return the table that comes with onnxslim."""
    return SignatureTable(table_text(), "ops.axes")


@functools.cache
def rank_of_input(op: OpName, index: int) -> int | None:
    """Return the rank that an input must have by every row of its op; None where rows differ, or leave it open."""
    found: set[int | None] = set()
    for row in signatures().get(op, ()):
        operand = row.inputs[index] if index < len(row.inputs) else None
        fixed = operand is not None and not (operand.ignored or operand.absent or operand.broadcasts)
        if operand is None or not fixed or any(dimension.ellipsis for dimension in operand.dimensions):
            return None
        found.add(len(operand.dimensions))
    return found.pop() if len(found) == 1 else None


def _signature(line: str, op: OpName, where: str) -> Signature:
    try:
        kind = KIND.match(line)
        return Signature(op, kind=kind["kind"], reason=kind["reason"] or "") if kind else _row(line)
    except ValueError as error:
        raise RuleError(
            f"this axis signature does not read: {error}",
            where=where,
            hint="a row looks like: Conv<group=g> X[n, g*i, ...s] W[g*o, i, ...k] -> Y[n, g*o, ...t]",
        ) from error


def _row(line: str) -> Signature:
    match = _ROW.match(line)
    if not match:
        raise ValueError("it has neither '->' nor 'kind:'")
    marks: dict[str, str] = {}
    places: dict[str, int] = {}
    inputs, outputs = (tuple(_operands(match[side], marks, places)) for side in ("inputs", "outputs"))
    where: list[tuple[str, int | str]] = []
    binds: list[tuple[str, tuple[str, ...]]] = []
    scales: list[tuple[str, tuple[str, ...]]] = []
    for part in filter(None, re.split(r"\s*,\s*", match["attributes"] or "")):
        attribute, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is no attribute=value")
        scale = _SCALE.match(value)
        product = tuple((scale["factors"] if scale else value).split("*"))
        if all(factor in places for factor in product):
            (scales if scale else binds).append((attribute, product))
        else:
            where.append((attribute, int(value) if re.fullmatch(r"-?\d+", value) else value))
    macs = tuple(
        tuple(re.split(r"\s*\*\s*", term.strip())) for term in (match["macs"] or "").split("+") if term.strip()
    )
    for factor in (factor for term in macs for factor in term):
        if factor not in places and not factor.isdigit():
            raise ValueError(f"the MACs name {factor!r}, which no operand has")
    fixed = {factor for factor, count in places.items() if count == 1 or factor.isdigit() or marks.get(factor) == "!"}
    return Signature(
        op=op_name(match["op"]),
        inputs=inputs,
        outputs=outputs,
        where=tuple(where),
        binds=tuple(binds),
        scales=tuple(scales),
        macs=macs,
        mixed=frozenset(factor for factor, mark in marks.items() if mark == "~"),
        fixed=frozenset(fixed),
    )


def _operands(text: str, marks: dict[str, str], places: dict[str, int]) -> Iterable[Operand]:
    for match in _OPERAND.finditer(text):
        if match["junk"]:
            raise ValueError(f"unexpected {match['junk']!r}")
        if match["ignored"] or match["absent"]:
            yield Operand("_", (), ignored=bool(match["ignored"]), absent=bool(match["absent"]))
            continue
        dimensions: list[Dimension] = []
        for part in filter(None, re.split(r"\s*,\s*", match["axes"].strip())):
            dimension = _DIMENSION.match(part)
            if not dimension:
                raise ValueError(f"{part!r} is no axis")
            factors: list[str] = []
            for word in dimension["factors"].split("*"):
                factor = word.lstrip("~!")
                if word != factor:
                    marks[factor] = word[0]
                places[factor] = places.get(factor, 0) + 1
                factors.append(factor)
            dimensions.append(Dimension(tuple(factors), ellipsis=bool(dimension["ellipsis"])))
        yield Operand(match["name"], tuple(dimensions), broadcasts=match["open"] == "{")
