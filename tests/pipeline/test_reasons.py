"""Reasons have codes that stay, and texts that are made where they are shown."""

from __future__ import annotations

from onnxslim.pipeline.reasons import Reason, ReasonCode, describe
from onnxslim.pipeline.records import ReasonRecord, reason_record


def test_every_code_has_a_text_of_its_own() -> None:
    assert list(ReasonCode.__members__.values()) == list(ReasonCode), "an alias has the text of another code"
    assert ReasonCode.OVER_BUDGET.word == "over-budget"


def test_reasons_are_joined_and_name_what_they_follow_from() -> None:
    rounding = Reason(ReasonCode.BEYOND_ROUNDING, (0.5, 1e-4))
    changed = Reason(ReasonCode.OUTPUTS_CHANGED, ("y", " (at N = 2)"), ("y",), rounding)
    several = Reason(ReasonCode.SEVERAL_SITES, (3,), cause=changed)
    text = "the outputs changed: y: relative difference 5.0e-01, at most 1e-04 is rounding (at N = 2)"
    assert describe((changed, Reason(ReasonCode.MILDEST), Reason(ReasonCode.NOTHING_FOUND))) == (
        f"{text}, in the mildest form; nothing to do"
    )
    assert reason_record(several) == ReasonRecord("several-sites", f"{text} (3 sites)", ("y",))


def test_braces_in_names_are_no_places_of_a_text() -> None:
    assert str(Reason(ReasonCode.NOTHING_TO_DO, ("{0} {cause}",))) == "nothing to do: {0} {cause}"
