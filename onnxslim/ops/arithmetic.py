"""What sizes make beyond sums and products: quotients, maxima, broadcasting; and what is known of any size."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from onnxslim.ops.symbols import Expression, Size, atom_of, call, exact_quotient, expression, terms_of


@functools.lru_cache(maxsize=1 << 14)
def lower_bound(size: Size) -> int | None:
    """Return a number that a size is never below; None where there is none."""
    total = 0
    for monomial, factor in terms_of(size):
        if factor < 0 and len(monomial) == 1:
            return _bound_without(size, monomial[0], factor)
    for monomial, factor in terms_of(size):
        least = factor
        if monomial:
            bounds = [_atom_bound(atom) for atom in monomial]
            if factor < 0 or any(bound is None or (bound < 0 and len(bounds) > 1) for bound in bounds):
                return None
            least = factor * math.prod(bound for bound in bounds if bound is not None)
        total += least
    return total


def _bound_without(size: Size, atom: str, factor: int) -> int | None:
    """Return a bound of a size that has a negative multiple of an atom, out of what is known of the atom."""
    inner = call(atom)
    if inner is None:
        return None
    function, (first, second, *_) = inner
    rest = size - atom_of(atom) * factor
    if function == "max":  # it is 0, or what it says
        bounds = [lower_bound(rest), lower_bound(rest + second * factor)]
        return None if None in bounds else min(bound for bound in bounds if bound is not None)
    if function == "floordiv" and isinstance(second, int) and second > 0 and factor % second == 0:
        return lower_bound(rest + first * (factor // second))  # no more than the quotient that is not rounded
    return None


def _atom_bound(atom: str) -> int | None:
    inner = call(atom)
    if inner is None:
        return None if atom.startswith("{!") else 0
    function, arguments = inner
    if function == "floordiv":
        above, below = lower_bound(arguments[0]), arguments[1]
        if above is not None and isinstance(below, int) and below > 0:
            return above // below
        return 0 if above is not None and above >= 0 and is_positive(below) else None
    return 0 if function in ("max", "broadcast") else None


def is_nonnegative(size: Size) -> bool:
    """Whether a size is known to be 0 or more."""
    bound = lower_bound(size)
    return bound is not None and bound >= 0


def is_positive(size: Size) -> bool:
    """Whether a size is known to be 1 or more."""
    bound = lower_bound(size)
    return bound is not None and bound >= 1


def never_equal(first: Size, second: Size) -> bool:
    """Whether two sizes are known to differ in every run."""
    difference = first - second
    if isinstance(difference, int):
        return difference != 0
    if is_positive(difference) or is_positive(-difference):
        return True
    constant = next((factor for monomial, factor in difference.terms if not monomial), 0)
    divisor = math.gcd(*(factor for monomial, factor in difference.terms if monomial))
    return constant % divisor != 0


def floordiv(dividend: Size, divisor: Size) -> Size:
    """Return the quotient, rounded down. Where `divisor` may be 0, the result holds only if it is not."""
    if isinstance(dividend, int) and isinstance(divisor, int):
        return dividend // divisor
    exact = exact_quotient(dividend, divisor)
    if exact is not None:
        return exact
    if isinstance(divisor, int):
        if divisor < 0:
            return floordiv(-dividend, -divisor)
        whole = expression({m: c // divisor for m, c in terms_of(dividend)})
        rest = expression({m: c % divisor for m, c in terms_of(dividend)})
        common = math.gcd(divisor, *(c for m, c in terms_of(rest) if m))
        if common > 1:  # floor((g*a + c) / (g*b)) is floor((a + floor(c / g)) / b)
            rest = expression({m: c // common for m, c in terms_of(rest)})
            divisor //= common
            return whole + floordiv(rest, divisor)
        return whole + _quotient(rest, divisor)
    return _quotient(dividend, divisor)


def _quotient(dividend: Size, divisor: Size) -> Size:
    if isinstance(dividend, Expression) and len(dividend.terms) <= 2 and isinstance(divisor, int):
        (monomial, factor), *others = dividend.terms
        inner = call(monomial[0]) if len(monomial) == 1 and factor == 1 else None
        if inner is not None and inner[0] == "floordiv" and isinstance(inner[1][1], int) and inner[1][1] > 0:
            constant = others[0][1] if others and not others[0][0] else 0
            if not others or not others[0][0]:  # floor((floor(a / b) + c) / d) is floor((a + b*c) / (b*d))
                return floordiv(inner[1][0] + constant * inner[1][1], inner[1][1] * divisor)
    return atom_of(f"floordiv({dividend}, {divisor})")


def truncdiv(dividend: Size, divisor: Size) -> Size:
    """Return the quotient, rounded towards zero, as ONNX divides integers."""
    if isinstance(dividend, int) and isinstance(divisor, int):
        quotient = abs(dividend) // abs(divisor)
        return quotient if (dividend < 0) == (divisor < 0) else -quotient
    exact = exact_quotient(dividend, divisor)
    if exact is not None:
        return exact
    if is_nonnegative(dividend) and is_nonnegative(divisor):  # by 0 nothing is divided
        return floordiv(dividend, divisor)
    return atom_of(f"truncdiv({dividend}, {divisor})")


def ceildiv(dividend: Size, divisor: int) -> Size:
    """Return the quotient by a positive number, rounded up."""
    return floordiv(dividend + (divisor - 1), divisor)


def mod(dividend: Size, divisor: Size) -> Size:
    """Return the remainder, which has the sign of the divisor, as ONNX Mod has it for integers."""
    return dividend - divisor * floordiv(dividend, divisor)


def maximum(first: Size, second: Size) -> Size:
    """Return the larger of two sizes."""
    if isinstance(first, int) and isinstance(second, int):
        return max(first, second)
    return first + _positive_part(second - first)


def minimum(first: Size, second: Size) -> Size:
    """Return the smaller of two sizes."""
    if isinstance(first, int) and isinstance(second, int):
        return min(first, second)
    return second - _positive_part(second - first)


def _positive_part(size: Size) -> Size:
    """Return a size, or 0 where it is negative."""
    if isinstance(size, int):
        return max(0, size)
    if is_nonnegative(size):
        return size
    if is_nonnegative(-size):
        return 0
    if size.terms[0][1] < 0:
        return size + _positive_part(-size)
    common = math.gcd(*(factor for _, factor in size.terms))
    if common > 1:
        return common * _positive_part(expression({m: c // common for m, c in size.terms}))
    inner = call(size.terms[0][0][0]) if len(size.terms[0][0]) == 1 and size.terms[0][1] == 1 else None
    if inner is not None and inner[0] == "max" and len(size.terms) == 2 and not size.terms[1][0]:
        return _positive_part(inner[1][1] + size.terms[1][1])  # max(0, max(0, a) - c) is max(0, a - c)
    return atom_of(f"max(0, {size})")


def broadcast(*sizes: Size) -> Size:
    """Return what sizes make that broadcast: the one that is not 1, an opaque size where that may be any of several.

    Raises:
        ValueError: Numbers that do not broadcast.
    """
    parts: dict[str, Size] = {}
    for size in sizes:
        if isinstance(size, Expression) and size.text.startswith("broadcast(") and call(size.text) is not None:
            parts.update({str(part): part for part in (call(size.text) or ("", ()))[1]})
        elif size != 1:
            parts[str(size)] = size
    if not parts:
        return 1
    if len(parts) == 1:
        return next(iter(parts.values()))
    fixed = [size for size in parts.values() if never_equal(size, 1)]
    numbers = {size for size in fixed if isinstance(size, int)}
    if len(numbers) > 1:
        raise ValueError(f"{sorted(numbers)} do not broadcast")
    if numbers:
        return numbers.pop()
    for text, size in list(parts.items()):
        if any(_is_cut(size, other) for other in parts.values() if other is not size):
            del parts[text]
            if len(parts) == 1:
                return next(iter(parts.values()))
    if fixed:
        return min(fixed, key=lambda size: (len(str(size)), str(size)))
    return atom_of(f"broadcast({', '.join(sorted(parts))})")


def broadcast_shapes(shapes: Sequence[tuple[Size, ...]]) -> tuple[Size, ...]:
    """Return the shape that shapes broadcast to, aligned at the right (ONNX, Broadcasting)."""
    first = shapes[0]
    if len(shapes) == 1 or (len(shapes) == 2 and (first == shapes[1] or not shapes[1])):
        return first
    result: list[Size] = []
    for axis in range(-max(map(len, shapes)), 0):
        sizes = [shape[axis] for shape in shapes if -axis <= len(shape)]
        alike = all(size == sizes[0] for size in sizes)
        result.append(sizes[0] if alike else broadcast(*sizes))
    return tuple(result)


def _is_cut(size: Size, whole: Size) -> bool:
    """Whether a size is the smaller of `whole` and a number from 2 on: the two broadcast only if they are equal."""
    rest = whole - size
    if isinstance(rest, int) or len(rest.terms) != 1 or len(rest.terms[0][0]) != 1 or rest.terms[0][1] != 1:
        return False
    inner = call(rest.text)
    least = whole - inner[1][1] if inner is not None and inner[0] == "max" else None
    return isinstance(least, int) and least > 1
