"""Names and patterns of names choose what passes work on."""

from __future__ import annotations

import pytest

from onnxslim.pipeline.interface import Note
from onnxslim.pipeline.selection import excluded, matches, unmatched


@pytest.mark.parametrize(
    ("include", "exclude", "reason"),
    [
        ((), (), ""),
        (("conv*",), (), ""),
        (("CONV*",), (), "not in include"),
        (("fc",), (), "not in include"),
        ((), ("conv?",), "in exclude"),
        (("conv1",), ("*.weight",), "in exclude"),
        (("fc",), ("conv1",), "not in include"),
    ],
)
def test_include_comes_first_and_exclude_takes_away(
    include: tuple[str, ...], exclude: tuple[str, ...], reason: str
) -> None:
    assert excluded({"conv1", "conv1.weight"}, include, exclude) == reason


def test_nothing_matches_no_pattern() -> None:
    assert not matches(("a",), ())
    assert not matches((), ("*",))


def test_patterns_without_a_match_are_told() -> None:
    notes = unmatched({"a"}, ("a", "b"), ("c*",), "no weight is called so")
    assert notes == [
        Note("include", "'b' matches nothing", "no weight is called so"),
        Note("exclude", "'c*' matches nothing", "no weight is called so"),
    ]
