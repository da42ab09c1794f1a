"""What each layer costs, as a page shows it."""

from __future__ import annotations

import dataclasses

from page_checks import check_page
from report_pages import long_report
from report_strategies import sample_report

from onnxslim.report.page.document import page_of


def words_of(*layers) -> str:
    report = sample_report()
    step = dataclasses.replace(report.passes[1], sensitivity=layers)
    return " ".join(check_page(page_of(dataclasses.replace(report, passes=(report.passes[0], step)))).words)


def test_layers_are_listed_and_drawn_with_what_became_of_them():
    words = words_of(*sample_report().passes[1].sensitivity)
    for expected in (
        "Which layer hurts: quant",
        "in the outputs",
        "Ring: costs most: /layer0/Conv, 31.2 dB, 75.00 % of the noise",
        "2 of 2 layers",
        "it brings 75.0% of the error",
        "36.9 kB",
        "0.310 ms",
    ):
        assert expected in words, expected


def test_what_is_not_measured_is_not_shown_and_one_layer_is_not_drawn():
    first, second = sample_report().passes[1].sensitivity
    unmeasured = dataclasses.replace(first, sqnr_db=None, share=None, sqnr_reason="asked not to", share_reason="so")
    assert "Which layer hurts" not in words_of(unmeasured)
    words = words_of(unmeasured, second)
    assert "/layer1/Conv" in words
    assert "Noise of each layer alone" not in words


def test_thousands_of_layers_stay_few():
    page = check_page(page_of(long_report()))
    assert "and 5,988 more that cost less, which the report as JSON holds" in page.words
    assert " ".join(page.words).count("Which layer hurts") == 3
