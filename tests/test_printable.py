"""Nothing that a terminal obeys comes out of a name, and nothing else changes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from onnxslim.diagnostic import Diagnostic
from onnxslim.errors import OnnxslimError
from onnxslim.printable import HARMFUL, json_safe, printable, printable_record

TEXTS = st.text(st.characters(exclude_categories=()))


@given(TEXTS)
def test_what_terminals_obey_is_written_out(text: str) -> None:
    shown = printable(text)
    assert not HARMFUL.search(shown)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_all_else_stays(text: str) -> None:
    assert printable(text) == text


@given(TEXTS)
def test_json_reads_as_before(text: str) -> None:
    safe = json_safe(json.dumps({"a": text}, ensure_ascii=False, indent=2))
    assert not HARMFUL.search(safe.replace("\n", ""))
    assert json.loads(safe) == {"a": text}


def test_records_and_errors() -> None:
    record = Diagnostic("code", "red \x1b[31m", "\u202e")
    assert printable_record((record, {"\n": ["\x07", 1]})) == (
        Diagnostic("code", "red \\x1b[31m", "\\u202e"),
        {"\\n": ["\\x07", 1]},
    )
    error = OnnxslimError("what\n\nhint: run this", where="\x1b]0;title\x07", hint="\x9b")
    assert str(error) == "\\x1b]0;title\\x07: what\\n\\nhint: run this\n\nhint: \\x9b"
