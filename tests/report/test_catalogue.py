from __future__ import annotations

import io

import pytest
from rich.console import Console

from onnxslim.commands.catalogue import OptionEntry, PassEntry
from onnxslim.report.catalogue import print_pass, shown


@pytest.mark.parametrize(
    ("default", "text"),
    [
        (None, "none"),
        (True, "true"),
        ([], "(empty)"),
        (["a", "b"], "a+b"),
        ("", "(empty)"),
        ("mse", "mse"),
        (0.5, "0.5"),
    ],
)
def test_a_default_reads_as_one_would_type_it(default: object, text: str):
    assert shown(default) == text


def printed(entry: PassEntry) -> str:
    stream = io.StringIO()
    print_pass(entry, Console(file=stream, width=80, highlight=False))
    return stream.getvalue()


def test_a_pass_with_an_order_and_an_example_that_can_be_typed():
    options = (
        OptionEntry("names", "names joined by +", [], "what to keep", ()),
        OptionEntry("n", "number", 2, "much", ()),
    )
    text = printed(PassEntry("trim", "lossy", "Trims.", "", ("simplify",), ("prune", "simplify"), options))
    assert "Runs after: simplify, prune\n" in text
    assert "Use: onnxslim optimize model.onnx -p trim:n=2" in text


def test_a_pass_without_options():
    text = printed(PassEntry("plain", "exact", "Nothing to choose.", "More words.", (), (), ()))
    assert text == "plain (exact): Nothing to choose.\n\nMore words.\n\nIt has no options.\n"
