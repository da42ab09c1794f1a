"""The typed signature of a rule: what it demands of the tensors at a site, and what its test must draw.

A parameter is ``TYPE[SIZES] name``, and everything but the name may be missing. Alternatives are separated by ``|``.

    TYPE     an element type of ONNX (float, int64, bool, ...); ``floating``, ``integer``, ``numeric`` or ``any``; or a
             word that begins with a capital: any type, the same wherever the word occurs
    SIZES    a list of
             3          this size
             N          any size, the same wherever the name occurs
             C*group    the same; the factors are sizes, integer attributes of the rule, or in front a number
             ...        any number of any sizes
             ...S       the same, and equal wherever the name occurs
             1...       any number of ones
             1...S      as many ones as ``...S`` has sizes
             1?         in front: a one that may be missing, as in broadcasting
    = 0      after the name: an optional input that, where it is missing, counts as zeros of these sizes

A parameter without TYPE may be anything, a missing optional input too. Results may be typed in the same way: a rule
that holds only if no broadcasting takes place says that its result has the shape of its parameter.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from onnxslim.errors import RuleError
from onnxslim.rewrite.mismatch import Mismatch, MismatchCode

FLOATING = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
INTEGER = (
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.INT16,
    ir.DataType.INT8,
    ir.DataType.UINT64,
    ir.DataType.UINT32,
    ir.DataType.UINT16,
    ir.DataType.UINT8,
)
CLASSES: Mapping[str, tuple[ir.DataType, ...]] = {
    "floating": FLOATING,
    "integer": INTEGER,
    "numeric": FLOATING + INTEGER,
    "any": (*FLOATING, *INTEGER, ir.DataType.BOOL, ir.DataType.STRING),
}
"""Classes of element types; the first ones are those that tests draw most."""

ONNX_TYPES = {str(kind.name).lower(): kind for kind in ir.DataType if kind != ir.DataType.UNDEFINED}


@dataclasses.dataclass(frozen=True)
class DimensionRun:
    """A part of a shape that may have any number of sizes."""

    name: str | None = None
    ones: bool = False


@dataclasses.dataclass(frozen=True)
class TensorType:
    """One alternative of a parameter: an element type, and sizes (None: any)."""

    element: str
    sizes: tuple[int | str | DimensionRun, ...] | None
    leading_one: bool = False
    """Begins with ``1?``, which is no member of `sizes`."""

    def element_types(self) -> tuple[ir.DataType, ...]:
        """Return the element types that it allows."""
        if self.element in ONNX_TYPES:
            return (ONNX_TYPES[self.element],)
        return CLASSES.get(self.element, CLASSES["any"])


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter or a result of a rule."""

    name: str
    types: tuple[TensorType, ...] = ()
    """Alternatives; empty: anything."""
    zero: bool = False
    """Missing counts as zeros."""


Environment = dict[str, Any]
"""What the words of a signature stand for at a site: sizes (int or SymbolicDim), runs (tuples), element types."""


def read_parameters(text: str, where: str) -> tuple[Parameter, ...]:
    """Read ``float[M,K] a, b`` as parameters.

    Raises:
        RuleError: This is no list of parameters.
    """
    pieces = [piece.strip() for piece in re.split(r",(?![^\[]*\])", text)]
    return tuple(_parameter(piece, where) for piece in pieces) if text.strip() else ()


PARAMETER = re.compile(r"(?:(?P<types>.*\S)\s+)?(?P<name>[A-Za-z_]\w*)(?P<zero>\s*=\s*0)?", re.S)
TYPE = re.compile(r"(?P<element>[A-Za-z]\w*)?\s*(?:\[(?P<sizes>[^\]]*)\])?")
SIZE = re.compile(
    r"(?P<size>\d+)|(?P<name>(?:\d+\*)?[A-Za-z_]\w*(?:\*[A-Za-z_]\w*)*)|(?P<one>1)?\.\.\.(?P<run>[A-Za-z_]\w*)?"
)


def _parameter(text: str, where: str) -> Parameter:
    match = PARAMETER.fullmatch(text)
    if match is None:
        raise RuleError(f"{text!r} is no parameter", where=where, hint="write TYPE[SIZES] name, or name")
    types: list[TensorType] = []
    for piece in (match["types"] or "").split("|") if match["types"] else ():
        types.append(_type(piece.strip(), types[0].element if types else None, where))
    if match["zero"] and not all(kind.sizes is not None for kind in types):
        raise RuleError(f"{match['name']} = 0 needs sizes", where=where, hint="zeros of which shape?")
    return Parameter(match["name"], tuple(types), bool(match["zero"]))


def _type(text: str, before: str | None, where: str) -> TensorType:
    match = TYPE.fullmatch(text)
    element = match["element"] or before if match else None
    if match is None or element is None:
        raise RuleError(f"{text!r} is no type", where=where, hint="write float[N,C], floating, T[...]")
    if element not in ONNX_TYPES and element not in CLASSES and not element[0].isupper():
        known = ", ".join([*CLASSES, *ONNX_TYPES])
        raise RuleError(f"there is no element type {element!r}", where=where, hint=f"the element types are {known}")
    if match["sizes"] is None:
        return TensorType(element, None)
    sizes: list[int | str | DimensionRun] = []
    pieces = [piece.strip() for piece in match["sizes"].split(",")] if match["sizes"].strip() else []
    leading = bool(pieces) and pieces[0] == "1?"
    for piece in pieces[leading:]:
        size = SIZE.fullmatch(piece.replace(" ", ""))
        if size is None:
            raise RuleError(
                f"{piece!r} is no size", where=where, hint="a size is 3, N, C*group, ..., ...S, 1...S or 1?"
            )
        if "..." in piece:
            sizes.append(DimensionRun(size["run"], bool(size["one"])))
        else:
            sizes.append(int(piece) if size["size"] else size["name"])
    if sum(isinstance(size, DimensionRun) for size in sizes) > 1:
        raise RuleError(f"{text!r} has more than one run of sizes", where=where, hint="which size belongs to which?")
    return TensorType(element, tuple(sizes), leading)


def fits(
    parameters: Iterable[Parameter], values: Mapping[str, ir.Value | None], environment: Environment
) -> Mismatch | None:
    """Compare the tensors at a site with a signature, and note in `environment` what its words stand for.

    Returns:
        None if they fit, else why they do not.
    """
    for parameter in parameters:
        value = values.get(parameter.name)
        if not parameter.types:
            continue
        if value is None:
            if parameter.zero:
                continue
            return Mismatch(MismatchCode.MISSING, (parameter.name,))
        shape = None if value.shape is None else tuple(value.shape)
        for kind in parameter.types:
            trial = dict(environment)
            if _fits(kind, value.dtype, shape, trial):
                environment.update(trial)
                break
        else:
            return Mismatch(MismatchCode.OTHER_TYPE, (parameter.name, value.dtype, value.shape), value=value)
    return _products(environment)


def _fits(kind: TensorType, dtype: ir.DataType | None, shape: Sequence[Any] | None, environment: Environment) -> bool:
    if kind.element != "any" and (dtype is None or dtype not in kind.element_types()):
        return False
    if kind.element[0].isupper() and environment.setdefault(f"type {kind.element}", dtype) != dtype:
        return False
    if kind.sizes is None:
        return True
    if shape is None:
        return False
    if kind.leading_one and shape and shape[0] == 1:
        trial = dict(environment)
        if _sizes_fit(kind.sizes, shape[1:], trial):
            environment.update(trial)
            return True
    return _sizes_fit(kind.sizes, shape, environment)


def _sizes_fit(wanted: Sequence[int | str | DimensionRun], shape: Sequence[Any], environment: Environment) -> bool:
    place = next((i for i, size in enumerate(wanted) if isinstance(size, DimensionRun)), None)
    if place is None:
        return len(wanted) == len(shape) and all(_same(w, s, environment) for w, s in zip(wanted, shape, strict=True))
    after = len(wanted) - place - 1
    if len(shape) < place + after:
        return False
    run, middle = wanted[place], tuple(shape[place : len(shape) - after])
    ends = zip([*wanted[:place], *wanted[place + 1 :]], [*shape[:place], *shape[len(shape) - after :]], strict=True)
    return (
        isinstance(run, DimensionRun)
        and _run_fits(run, middle, environment)
        and all(_same(w, s, environment) for w, s in ends)
    )


def _run_fits(run: DimensionRun, sizes: tuple[Any, ...], environment: Environment) -> bool:
    if run.ones:
        return all(size == 1 for size in sizes) and (
            run.name is None or len(environment.get(f"...{run.name}", ())) == len(sizes)
        )
    if run.name is None:
        return True
    known = environment.setdefault(f"...{run.name}", sizes)
    return len(known) == len(sizes) and all(equal_sizes(a, b) for a, b in zip(known, sizes, strict=True))


def _same(wanted: int | str | DimensionRun, size: Any, environment: Environment) -> bool:
    if isinstance(wanted, int):
        return bool(size == wanted)
    known = environment.setdefault(str(wanted), size)
    return (known is size and not isinstance(size, int)) or equal_sizes(known, size)


def equal_sizes(first: Any, second: Any) -> bool:
    """Whether two sizes are known to be equal; two unknown ones never are, and some files say -1 for unknown."""
    if isinstance(first, ir.SymbolicDim) and isinstance(second, ir.SymbolicDim):
        return first.value is not None and first.value == second.value
    return bool(first == second) and not (isinstance(first, int) and first < 0)


def _products(environment: Environment) -> Mismatch | None:
    """Check sizes like ``C*group`` whose factors are all known."""
    for word, size in environment.items():
        if "*" not in word or not isinstance(size, int):
            continue
        factors = [int(factor) if factor.isdigit() else environment.get(factor) for factor in word.split("*")]
        known = [factor for factor in factors if isinstance(factor, int)]
        if len(known) == len(factors) and math.prod(known) != size:
            return Mismatch(MismatchCode.OTHER_SIZE, (word, math.prod(known), size))
    return None
