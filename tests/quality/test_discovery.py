"""Metrics are found by name, and only by name."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from onnxslim.errors import BadOptionValue
from onnxslim.extensions import Group, extension_names
from onnxslim.quality.discovery import find_metric
from onnxslim.quality.metric import Metric


@pytest.mark.parametrize("name", extension_names(Group.METRICS))
def test_every_metric_declares_what_the_interface_asks_for(name: str) -> None:
    found = find_metric(name)
    assert found.name == name
    assert dataclasses.is_dataclass(found)
    assert inspect.getdoc(found) != inspect.getdoc(Metric)
    assert not inspect.isabstract(found)


def test_a_misspelt_name_is_guessed() -> None:
    with pytest.raises(BadOptionValue, match="clasification") as caught:
        find_metric("clasification")
    assert "did you mean classification?" in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_a_name_like_no_other_lists_them_all() -> None:
    with pytest.raises(BadOptionValue) as caught:
        find_metric("zzzzzz")
    assert "sqnr" in (caught.value.hint or "")
