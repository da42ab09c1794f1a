"""Sizes that are not known yet, as exact integer formulas: sums of products of names, quotients and maxima.

A size is an int, or an `Expression`: a sum of products of *atoms* with integer coefficients, in one canonical form. Two
expressions that are equal have the same value in every run; nothing is guessed, so the other way round need not hold.
An atom is a text:

    N, p2o.Dynamic.0     a named size, which is 0 or more
    {x y}                a named size whose name is no word
    {?v#1}               the size of axis 1 of value v, about which nothing else is known
    {!v#1}               element 1 of value v, any integer
    floordiv(a, b)       the quotient of two expressions, rounded down
    truncdiv(a, b)       the same, rounded towards zero
    max(0, a)            a, or 0 where a is negative; all minima and maxima are written with it
    broadcast(a, b)      what two sizes make that broadcast: the one that is not 1

The text of an expression, ``2*N + 1``, is what stands in the file as the name of a dimension; `parse` reads it back.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Union

Monomial = tuple[str, ...]
"""Atoms in order, each as often as its power says."""

LONGEST = 240
"""An expression with a longer text is worth nothing; whoever makes one should put an unknown size in its place."""

WORD = re.compile(r"[^\W\d][\w.:]*")
TOKEN = re.compile(r"\s*(?:(\d+|[^\W\d][\w.:]*|\{[^{}]*\}|[-+*(),])|\S)")
"""The group is empty for a letter that nothing can be made of."""


class TooLong(ValueError):
    """An expression has grown beyond what is worth computing with."""


class Expression:
    """An integer that depends on the inputs of the model. Immutable; made by arithmetic on `named` sizes."""

    __slots__ = ("terms", "text")

    terms: tuple[tuple[Monomial, int], ...]
    """Products and their coefficients, none of them 0, in order; the product of nothing comes last."""
    text: str

    def __init__(self, terms: tuple[tuple[Monomial, int], ...], text: str) -> None:
        self.terms = terms
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return self.text

    def __add__(self, other: Size) -> Size:
        sums = dict(self.terms)
        for monomial, factor in terms_of(other):
            sums[monomial] = sums.get(monomial, 0) + factor
        return expression(sums)

    def __mul__(self, other: Size) -> Size:
        if other == 1:
            return self
        sums: dict[Monomial, int] = {}
        for left, factor in self.terms:
            for right, other_factor in terms_of(other):
                product = tuple(sorted(left + right))
                sums[product] = sums.get(product, 0) + factor * other_factor
        return expression(sums)

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + -other

    def __rsub__(self, other: int) -> Size:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__


Size = Union[int, Expression]  # noqa: UP007  # the alias is evaluated, on Python 3.10 too, before Expression is complete


def terms_of(size: Size) -> Iterable[tuple[Monomial, int]]:
    """Return the products of a size and their coefficients; of 0, none."""
    if isinstance(size, Expression):
        return size.terms
    return (((), size),) if size else ()


def expression(sums: Mapping[Monomial, int]) -> Size:
    """Return a sum of products with coefficients."""
    terms = sorted(((m, c) for m, c in sums.items() if c), key=lambda term: (-len(term[0]), term[0]))
    if not terms:
        return 0
    if len(terms) == 1 and not terms[0][0]:
        return terms[0][1]
    pieces: list[str] = []
    for monomial, factor in terms:
        size = abs(factor)
        product = "*".join(monomial) if size == 1 and monomial else "*".join((str(size), *monomial))
        sign = ("-" if factor < 0 else "") if not pieces else (" - " if factor < 0 else " + ")
        pieces.append(sign + product)
    text = "".join(pieces)
    if len(text) > 8 * LONGEST:
        raise TooLong(text[:80])
    return Expression(tuple(terms), text)


def atom_of(text: str) -> Expression:
    """Return an atom, whose text must be canonical."""
    return Expression((((text,), 1),), text)


@functools.lru_cache(maxsize=1 << 14)
def named(name: str) -> Expression:
    """Return the size that is called `name`, whatever letters that is made of."""
    return atom_of(name if WORD.fullmatch(name) else "{" + name.replace("{", "(").replace("}", ")") + "}")


def unknown_size(value: str, axis: int) -> Expression:
    """Return the size of an axis of a value of which nothing else is known."""
    return atom_of(f"{{?{_braceless(value)}#{axis}}}")


def unknown_element(value: str, index: int) -> Expression:
    """Return an element of a value of which nothing is known: any integer."""
    return atom_of(f"{{!{_braceless(value)}#{index}}}")


def _braceless(name: str) -> str:
    return name.replace("{", "(").replace("}", ")") if "{" in name or "}" in name else name


def is_name(text: str) -> bool:
    """Whether the name of a dimension says which size it is: ``?`` and ``-1`` do not, and every one is its own."""
    return any(letter.isalpha() for letter in text) and not set("{}").intersection(text)


def is_unknown(size: Size) -> bool:
    """Whether a size is one of which nothing is known, and no formula."""
    return isinstance(size, Expression) and size.text.startswith("{?") and size.text.find("}") == len(size.text) - 1


@functools.lru_cache(maxsize=1 << 14)
def atoms(size: Size) -> frozenset[str]:
    """Return the named and unknown sizes and elements that an expression is made of, at any depth."""
    found: set[str] = set()
    for monomial, _ in terms_of(size):
        for atom in monomial:
            inner = call(atom)
            found |= {atom} if inner is None else frozenset().union(*map(atoms, inner[1]))
    return frozenset(found)


# Reading


@functools.lru_cache(maxsize=1 << 16)
def parse(text: str) -> Size:
    """Return the size that a text of this module says; a text that is no formula is a name."""
    reader = _Reader(text)
    try:
        size = reader.sum()
    except (IndexError, KeyError, ValueError):
        return named(text)
    return size if reader.position == len(reader.tokens) else named(text)


@functools.lru_cache(maxsize=1 << 14)
def call(atom: str) -> tuple[str, tuple[Size, ...]] | None:
    """Return the function that an atom applies, and what to; None for a name."""
    if not atom.endswith(")") or atom.startswith("{"):
        return None
    reader = _Reader(atom)
    reader.position = 2  # behind the name and its parenthesis
    return reader.tokens[0], reader.arguments()


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens = [match[1] or "" for match in TOKEN.finditer(text)]
        self.position = 0

    def sum(self) -> Size:
        sign = self._take("-")
        total = self.product() * (-1 if sign else 1)
        while sign := self._take("+") or self._take("-"):
            total = total + self.product() * (-1 if sign == "-" else 1)
        return total

    def product(self) -> Size:
        total = self.atom()
        while self._take("*"):
            total = total * self.atom()
        return total

    def atom(self) -> Size:
        token = self.tokens[self.position]
        self.position += 1
        if token.isdecimal():
            return int(token)
        if token == "(":
            size = self.sum()
            if not self._take(")"):
                raise ValueError(token)
            return size
        if token.startswith("{"):
            return atom_of(token)
        if not token or token in "+-*),":
            raise ValueError(token)
        if self._take("("):
            return atom_of(f"{token}({', '.join(map(str, self.arguments()))})")
        return named(token)

    def arguments(self) -> tuple[Size, ...]:
        sizes = [self.sum()]
        while self._take(","):
            sizes.append(self.sum())
        if not self._take(")"):
            raise ValueError("parenthesis")
        return tuple(sizes)

    def _take(self, token: str) -> str:
        """Return `token` and go on behind it, if it is the next; else nothing."""
        if self.tokens[self.position : self.position + 1] != [token]:
            return ""
        self.position += 1
        return token


# Division without a remainder


def exact_quotient(dividend: Size, divisor: Size) -> Size | None:
    """Return the size that, times `divisor`, is `dividend`; None where there is no such polynomial."""
    if divisor == 1 or dividend == 0:
        return dividend
    if isinstance(dividend, int) and isinstance(divisor, int):
        return dividend // divisor if divisor and dividend % divisor == 0 else None
    leading = next(iter(terms_of(divisor)), None)
    if leading is None:
        return None
    quotient: dict[Monomial, int] = {}
    rest = dividend
    for _ in range(64):
        first = next(iter(terms_of(rest)), None)
        if first is None:
            return expression(quotient)
        monomial = _without(first[0], leading[0])
        if monomial is None or first[1] % leading[1]:
            return None
        quotient[monomial] = factor = first[1] // leading[1]
        rest = rest - divisor * expression({monomial: factor})
    return None


def _without(monomial: Monomial, other: Monomial) -> Monomial | None:
    rest = list(monomial)
    for atom in other:
        if atom not in rest:
            return None
        rest.remove(atom)
    return tuple(rest)


def product(sizes: Sequence[Size]) -> Size:
    """Return the product of sizes, 1 of none."""
    return functools.reduce(operator.mul, sizes, 1)
