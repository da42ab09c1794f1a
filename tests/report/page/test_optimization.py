from __future__ import annotations

import dataclasses

from hypothesis import HealthCheck, given, settings
from page_checks import check_page
from report_strategies import reports, sample_report

from onnxslim.diagnostic import Diagnostic
from onnxslim.pipeline.interface import LayerChange, Note
from onnxslim.report.model import ModelFile, Report
from onnxslim.report.page.document import page_of

HOSTILE = (
    "<script>alert(1)</script>",
    '" onload="alert(1)',
    "' onerror='alert(1)",
    "]]><!--",
    "javascript:alert(1)",
    "$\\frac$",
    "</style><style>*{display:none}",
    "{{ 7 * 7 }}",
    "a\u202egnp.exe",
    "url(https://example.com/x)",
    "x" * 5000,
)


def hostile_report() -> Report:
    """Return a report in which every name is one of those that break pages."""
    report = sample_report()
    steps = tuple(
        dataclasses.replace(
            report.passes[1],
            name=name,
            reason=name,
            options={name: name},
            changes=(Note(name, name, name),),
            layers=(LayerChange(name, name, name, 3, 2, 30, 20),),
        )
        for name in HOSTILE
    )
    return dataclasses.replace(
        report,
        input=ModelFile(HOSTILE[0], HOSTILE[1]),
        output=ModelFile(HOSTILE[6], HOSTILE[1]),
        passes=steps,
        diagnostics=tuple(Diagnostic(name, name, name) for name in HOSTILE),
    )


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


def test_layers_of_passes_that_were_rolled_back_did_not_get_thinner():
    report = sample_report()
    assert "64 → 48 channels" not in page_of(report)
    kept = dataclasses.replace(report.passes[0], kept=True)
    assert "64 → 48 channels" in page_of(dataclasses.replace(report, passes=(kept,)))


@given(reports)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_report_has_a_page(report: Report):
    check_page(page_of(report))


def test_names_in_a_model_run_nothing_and_are_all_there():
    page = check_page(page_of(hostile_report()))
    assert page.title == "script> → style><style>*{display:none}"  # the last part of a path
    words = set(page.words)
    assert set(HOSTILE[1:6]) <= words
    assert "a[U+202E]gnp.exe" in words
    assert "{{ 7 * 7 }}" in words


def test_thousands_of_layers_and_notes_stay_small():
    report = sample_report()
    layers = tuple(
        LayerChange(f"/block{at}/{'deep/' * 60}Conv", "Conv", "channels", 64, 48, at, at // 2) for at in range(6000)
    )
    notes = tuple(Note("n" * 400, "a" * 400, "r" * 400) for _ in range(20_000))
    steps = tuple(dataclasses.replace(report.passes[1], layers=layers, changes=notes) for _ in range(6))
    page = check_page(page_of(dataclasses.replace(report, passes=steps)))
    assert "and 35,960 more, which the report as JSON holds" in page.words
    assert "and 19,900 more, which the report as JSON holds" in page.words


def test_the_page_is_the_same_each_time():
    assert page_of(sample_report()) == page_of(sample_report())
