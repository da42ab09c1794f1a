"""Passes are found by name, and only by name."""

from __future__ import annotations

import inspect

import pytest

from onnxslim.errors import UnknownPass
from onnxslim.pipeline.discovery import find_pass, pass_names
from onnxslim.pipeline.interface import Kind
from onnxslim.pipeline.options import options_of


def test_the_three_passes_of_the_first_release_are_there() -> None:
    assert {"simplify", "prune", "quant", "onnxsim"} <= set(pass_names())


@pytest.mark.parametrize("name", pass_names())
def test_every_pass_declares_what_the_interface_asks_for(name: str) -> None:
    found = find_pass(name)
    assert found.name == name
    assert isinstance(found.kind, Kind)
    assert inspect.getdoc(found), "the docstring is the help text"
    assert set(found.needs) <= set(pass_names())
    assert all(option.help for option in options_of(found))
    assert found() == found(), "a pass is a value, and runs without options"


def test_a_misspelt_name_is_guessed() -> None:
    with pytest.raises(UnknownPass, match="quamt") as caught:
        find_pass("quamt")
    assert caught.value.hint == "did you mean quant?"
    assert caught.value.exit_code == 2


def test_a_name_like_no_other_lists_them_all() -> None:
    with pytest.raises(UnknownPass) as caught:
        find_pass("zzzzzz")
    assert "simplify" in (caught.value.hint or "")
