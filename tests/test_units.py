from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxslim.runtime.statistics import Interval
from onnxslim.units import (
    in_bytes,
    in_millijoules,
    in_milliseconds,
    in_percent,
    in_thousands,
    per_second,
    speed,
    times,
    with_interval,
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (in_bytes(512), "512 B"),
        (in_bytes(1_250_000), "1.25 MB"),
        (in_bytes(999_999), "1000 kB"),
        (in_bytes(2_500_000_000), "2.50 GB"),
        (in_bytes(4_321_000_000_000), "4321 GB"),
        (in_bytes(None), "-"),
        (in_thousands(999), "999"),
        (in_thousands(41_300_000), "41.3 M"),
        (in_thousands(0), "0"),
        (in_thousands(None), "-"),
        (in_milliseconds(0.0432), "0.0432 ms"),
        (in_milliseconds(12.34), "12.3 ms"),
        (in_milliseconds(4560), "4.56 s"),
        (in_milliseconds(120e3), "2.00 min"),
        (in_milliseconds(None), "-"),
        (in_millijoules(3.2), "3.20 mJ"),
        (in_millijoules(3200), "3.20 J"),
        (in_millijoules(None), "-"),
        (per_second(1433.3), "1,433 /s"),
        (per_second(4.333), "4.33 /s"),
        (per_second(2_000_000), "2.00 M /s"),
        (per_second(None), "-"),
        (in_percent(0.934), "93.40 %"),
        (in_percent(31.5), "31.5"),
        (in_percent(None), "-"),
        (with_interval(Interval(28.7, 28.5, 28.9), 1, unit=" dB"), "28.7 dB (28.5 to 28.9)"),
        (with_interval(None), "-"),
        (times(2.311, "smaller", "larger"), "2.31x smaller"),
        (times(0.5, "smaller", "larger"), "2.00x larger"),
        (times(1.001, "smaller", "larger"), "the same"),
        (times(None, "smaller", "larger"), "-"),
        (speed(Interval(2.31, 2.25, 2.37)), "2.31x faster (2.25 to 2.37)"),
        (speed(Interval(0.5, 0.4, 0.8)), "2.00x slower (1.25 to 2.50)"),
        (speed(Interval(1.01, 0.98, 1.05)), "no clear difference (0.98x to 1.05x)"),
        (speed(None), "-"),
    ],
)
def test_numbers_read_well(written: str, expected: str):
    assert written == expected


@given(st.floats(0, 1e15))
def test_a_size_is_never_wide(count: float):
    assert len(in_bytes(count)) <= 12
