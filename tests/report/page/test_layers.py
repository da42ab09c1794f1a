from __future__ import annotations

import dataclasses

from page_checks import check_page
from report_pages import cost, layer
from report_strategies import sample_report

from onnxslim.pipeline.records import Breakdown, LayerCost, LayerFigures, OpFigures
from onnxslim.report.page.document import page_of
from onnxslim.report.page.layers import short_time

NONE = LayerCost(0, 0, 0, None, None, "it has no weights", "fused")


def page_with(layers: list[LayerFigures], ops: list[OpFigures]):
    breakdown = Breakdown(tuple(layers), tuple(ops))
    return check_page(page_of(dataclasses.replace(sample_report(), breakdown=breakdown)))


def test_layers_are_shown_with_types_widths_and_errors():
    ops = [OpFigures("Conv", cost(5), cost(4, "int8")), OpFigures("Relu", NONE, NONE)]
    words = page_with([layer("/a/Conv", 5), layer("/b/Conv", 3, None)], ops).words
    for expected in (
        "/a/Conv",
        "/a/Conv · float → int8, 64 → 48 channels",
        "20.0 dB",
        "another shape",
        "50 µs",
        "2.00 kB",
    ):
        assert any(expected in word for word in words), expected
    assert "8 → 8 channels" not in " ".join(words)


def test_the_lowest_error_is_named():
    words = " ".join(
        page_with([layer("/a", 1), layer("/b", 1, 7.25), layer("/c", 1)], [OpFigures("Conv", NONE, NONE)]).words
    )
    assert "Lowest: /b, 7.2 dB" in words


def test_thousands_of_layers_are_added_up():
    layers = [layer(f"/block{at}/{'deep/' * 100}Conv", 1 + at % 7) for at in range(7000)]
    ops = [OpFigures(f"my.domain.{'Op' * 100}{at}", cost(at), cost(at)) for at in range(500)]
    words = page_with(layers, ops).words
    assert any("layers together" in word for word in words)
    assert any("other ops" in word for word in words)


def test_names_of_layers_run_nothing():
    hostile = ["<script>alert(1)</script>", "$\\frac$", '" onload="x', "\u202egnp", "]]>", "</text><image href=x>"]
    layers = [layer(name, 3, 5.0 + at) for at, name in enumerate(hostile)]
    page = page_with(layers, [OpFigures(name, cost(1), cost(1)) for name in hostile])
    assert {"<script>alert(1)</script>", "$\\frac$", "[U+202E]gnp"} <= {word.strip() for word in page.words}


def test_times_are_short():
    assert [short_time(time) for time in (None, 0.0, 0.0123, 0.5, 2000.0)] == [
        "0",
        "0",
        "12.3 µs",
        "0.500 ms",
        "2.00 s",
    ]
