"""Formulas of sizes: one canonical form, texts that read back, and arithmetic that is right for all numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from symbol_values import value_of

from onnxslim.ops.arithmetic import (
    broadcast,
    ceildiv,
    floordiv,
    is_nonnegative,
    lower_bound,
    maximum,
    minimum,
    mod,
    never_equal,
    truncdiv,
)
from onnxslim.ops.symbols import Size, exact_quotient, is_name, named, parse, unknown_element, unknown_size

N, M = named("N"), named("M")
NUMBERS = st.fixed_dictionaries({name: st.integers(0, 40) for name in "NMK"})


def extended(inner: st.SearchStrategy[Size]) -> st.SearchStrategy[Size]:
    pairs = st.tuples(inner, inner)
    divided = st.tuples(inner, st.integers(1, 9))
    return st.one_of(
        pairs.map(lambda pair: pair[0] + pair[1]),
        pairs.map(lambda pair: pair[0] - pair[1]),
        pairs.map(lambda pair: pair[1] * pair[0]),
        pairs.map(lambda pair: maximum(*pair)),
        pairs.map(lambda pair: minimum(*pair)),
        divided.map(lambda pair: floordiv(*pair)),
        divided.map(lambda pair: truncdiv(*pair)),
        divided.map(lambda pair: ceildiv(*pair)),
        divided.map(lambda pair: mod(*pair)),
    )


SIZES = st.recursive(st.one_of(st.sampled_from("NMK").map(named), st.integers(-3, 9)), extended, max_leaves=5)


@given(SIZES, SIZES, st.integers(1, 9), NUMBERS)
def test_formulas_compute_what_numbers_do(first: Size, second: Size, divisor: int, names: dict[str, int]) -> None:
    a, b = value_of(first, names), value_of(second, names)
    assert value_of(first + second, names) == a + b
    assert value_of(first - second, names) == a - b
    assert value_of(first * second, names) == a * b
    assert value_of(maximum(first, second), names) == max(a, b)
    assert value_of(minimum(first, second), names) == min(a, b)
    assert value_of(floordiv(first, divisor), names) == a // divisor
    assert value_of(truncdiv(first, divisor), names) == math.trunc(a / divisor)
    assert value_of(ceildiv(first, divisor), names) == -(-a // divisor)
    assert value_of(mod(first, divisor), names) == a % divisor


@given(SIZES, SIZES, NUMBERS)
def test_what_is_known_of_a_size_is_true_of_its_numbers(first: Size, second: Size, names: dict[str, int]) -> None:
    a, b = value_of(first, names), value_of(second, names)
    bound = lower_bound(first)
    assert bound is None or bound <= a
    assert a != b or not never_equal(first, second)
    assert first != second or a == b
    quotient = exact_quotient(first, second)
    assert quotient is None or value_of(quotient, names) * b == a


@given(SIZES)
def test_texts_read_back(size: Size) -> None:
    assert parse(str(size)) == size


@given(st.lists(st.sampled_from([N, M, 2 * N, 1]), min_size=1, max_size=4), NUMBERS)
def test_what_broadcasts_is_the_size_that_is_not_one(sizes: list[Size], names: dict[str, int]) -> None:
    numbers = {value_of(size, names) for size in sizes} - {1}
    if len(numbers) < 2:
        assert value_of(broadcast(*sizes), names) == next(iter(numbers), 1)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (N + N, "2*N"),
        ((N + 1) * (M - 1), "M*N + M - N - 1"),
        (N - N, "0"),
        (floordiv(floordiv(N - 1, 2), 2), "floordiv(N + 3, 4) - 1"),
        (floordiv(4 * N + 6, 4), "N + 1"),
        (maximum(1, N), "max(0, N - 1) + 1"),
        (broadcast(N, M, N), "broadcast(M, N)"),
        (broadcast(N, 1), "N"),
        (broadcast(N, 8), "8"),
        (broadcast(N, minimum(N, 512)), "N"),
        (2 * named("x y"), "2*{x y}"),
    ],
)
def test_one_form(size: Size, text: str) -> None:
    assert str(size) == text


def test_names_that_say_nothing() -> None:
    assert not is_name("?")
    assert not is_name("-1")
    assert is_name("a.b")
    assert unknown_size("x", 0) != unknown_size("x", 1)
    assert is_nonnegative(unknown_size("x", 0))
    assert not is_nonnegative(unknown_element("x", 0))
    assert parse("a-b") != named("a-b"), "a name that looks like a formula is none"


def test_numbers_that_do_not_broadcast() -> None:
    with pytest.raises(ValueError, match="do not broadcast"):
        broadcast(2, 3, N)
