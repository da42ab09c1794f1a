from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from onnxslim.report.page.visible import HIDDEN, shortened, visible


def test_what_hides_or_reorders_is_written_out():
    assert visible("conv\u202e1\u2066\x1b[31m\n") == "conv[U+202E]1[U+2066][U+001B][31m[U+000A]"
    assert visible("a\u0301\u0301\u0301\u0301") == "a\u0301\u0301[U+0301][U+0301]"
    assert visible("/layer.1/Conv é 卷积") == "/layer.1/Conv é 卷积"


@given(st.text())
def test_what_is_shown_hides_nothing_and_is_shown_as_it_is(text: str):
    shown = visible(text)
    assert not any(unicodedata.category(character) in HIDDEN for character in shown)
    assert visible(shown) == shown


@given(st.text(), st.integers(4, 30))
def test_what_is_shortened_fits_and_keeps_both_ends(text: str, most: int):
    shown, short = visible(text), shortened(text, most)
    assert len(short) <= most
    assert short == shown or (short[0], short[-1]) == (shown[0], shown[-1])
