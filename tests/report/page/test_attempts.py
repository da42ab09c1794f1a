from __future__ import annotations

import dataclasses

from page_checks import check_page
from report_pages import HOSTILE
from report_strategies import sample_report

from onnxslim.pipeline.records import AttemptRecord, Report
from onnxslim.report.page.attempts import attempts_tried
from onnxslim.report.page.document import page_of
from onnxslim.runtime.statistics import Interval


def attempt(loss: float, size: float, speed: float, kept: bool, reason: str) -> AttemptRecord:
    ends = Interval(loss, loss - 0.004, loss + 0.005)
    return AttemptRecord({}, 1.0, ends, size, Interval(speed, speed - 0.1, speed + 0.1), kept, reason, 2.0)


def report() -> Report:
    """Return a report of a pass that was kept in its second form, and one that was kept at once."""
    sample = sample_report()
    prune, quant = sample.passes
    forms = attempt(0.031, 2.2, 1.9, False, "3.10 % would be lost"), attempt(0.006, 1.5, 1.5, True, "within the budget")
    prune = dataclasses.replace(prune, kept=True, attempts=forms)
    quant = dataclasses.replace(quant, attempts=(attempt(0.009, 5.9, 2.0, True, "within the budget"),))
    return dataclasses.replace(sample, passes=(prune, quant))


def test_speeds_are_those_against_the_original():
    tried = attempts_tried(report().passes)
    assert [(each.mark, each.kept, each.size) for each in tried] == [
        ("1a", False, 2.2), ("1b", True, 1.5), ("2", True, 5.9)
    ]  # fmt: skip
    assert [each.speed for each in tried] == [1.9, 1.5, 3.0]


def test_attempts_are_drawn_and_listed():
    page = check_page(page_of(report()))
    words = " ".join(page.words)
    for expected in (
        *("Loss against size", "Loss against speed", "times smaller than the original", "lost, in %", "budget"),
        *("3.10 % lost (2.70 to 3.60)", "1a prune not kept", "1b prune kept", "5.90× smaller", "3.10 % would be lost"),
    ):
        assert expected in words, expected


def test_without_attempts_or_losses_nothing_is_drawn():
    assert "Loss against" not in page_of(sample_report())
    sample = report()
    step = dataclasses.replace(
        sample.passes[0],
        attempts=(AttemptRecord({}, 1.0, None, None, None, False, "it does not run", 1.0, "no", "no", "no"),),
    )
    text = page_of(dataclasses.replace(sample, passes=(step,)))
    assert "Loss against" not in text
    assert "it does not run" in text


def test_many_hostile_attempts_stay_small():
    sample = report()
    forms = tuple(attempt(0.01 * at, at + 1.0, 1.0, False, HOSTILE[at % len(HOSTILE)]) for at in range(1000))
    check_page(
        page_of(dataclasses.replace(sample, passes=(dataclasses.replace(sample.passes[0], attempts=forms),) * 3))
    )
