from __future__ import annotations

import dataclasses

from hypothesis import HealthCheck, Phase, given, settings
from page_checks import check_page
from report_pages import HOSTILE, hostile_report, long_report
from report_strategies import reports, sample_report

from onnxslim.pipeline.records import Report
from onnxslim.report.page.document import page_of


def test_the_page_says_what_the_report_says():
    page = check_page(page_of(sample_report()))
    assert page.title == "model.onnx → model.slim.onnx"
    words = " ".join(page.words)
    for expected in (
        *("3.79×", "smaller", "2.31×", "faster", "−0.15", "points", "93.40 % → 93.25 %", "✓ met"),
        *("Latency, median", "no RAPL counters here", "-0.15 points (-0.40 to +0.10)", "28.7 dB (28.5 to 28.9)"),
        *("✓ kept", "✗ not kept", "3.10% of accuracy would be lost", "/layer5/Conv[0]", "per channel"),
        *("onnxslim optimize model.onnx --passes quant", "seed = 0", "ab" * 32, "AMD EPYC", "onnxslim 0.1.0"),
    ):
        assert expected in words, expected


def test_the_budget_says_how_sure_it_is_and_what_would_settle_it():
    report = sample_report()
    report = dataclasses.replace(report, budget=dataclasses.replace(report.budget, samples_needed=1200))
    words = " ".join(check_page(page_of(report)).words)
    assert "at most 1.00 % may be lost, at 95 % confidence; about 1,200 samples would settle it" in words


def test_layers_of_passes_that_were_rolled_back_did_not_get_thinner():
    report = sample_report()
    assert "64 → 48 channels" not in page_of(report)
    kept = dataclasses.replace(report.passes[0], kept=True)
    assert "64 → 48 channels" in page_of(dataclasses.replace(report, passes=(kept,)))


@given(reports)
@settings(  # each takes a second: what fails is not made smaller
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
def test_every_report_has_a_page(report: Report):
    check_page(page_of(report))


def test_names_in_a_model_run_nothing_and_are_all_there():
    page = check_page(page_of(hostile_report()))
    assert page.title == "script> → svg><style>*{display:none}"  # the last part of a path
    words = "\n".join(page.words)
    assert all(name in words for name in HOSTILE if "\u202e" not in name and len(name) < 200)
    assert "a[U+202E]gnp.exe" in words


def test_thousands_of_layers_and_notes_stay_small():
    report = long_report()
    assert "and 19,934 more, which the report as JSON holds" in check_page(page_of(report)).words
    words = check_page(page_of(dataclasses.replace(report, breakdown=None))).words
    assert "and 35,960 more, which the report as JSON holds" in words


def test_the_page_is_the_same_each_time():
    assert page_of(sample_report()) == page_of(sample_report())
