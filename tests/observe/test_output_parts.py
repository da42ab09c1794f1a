"""Parts of an output are quantities that differ in scale in every sample."""

from __future__ import annotations

import detector
import numpy as np
from text_maps import text_map

from onnxslim.observe.output_parts import parts
from onnxslim.runtime.session import Session


def test_boxes_and_scores_count_alike() -> None:
    output = Session.of(detector.detector()).run({"images": detector.photos(4)})["output"].astype(np.float64)
    found = parts([output])
    assert sorted(tuple(np.flatnonzero(part[1])) for part in found) == [(0, 1, 2, 3), (4, 5)]
    assert {part[0] for part in found} == {2}
    assert parts([np.ones((3, 10))]) == [None]
    assert parts([np.ones((3, 10)), np.ones((3, 11))]) == [None]


def test_places_where_little_was_seen_are_no_quantities() -> None:
    maps = [text_map(at) for at in range(6)]
    assert parts(maps) == [None], "of columns"
    assert parts([np.concatenate(maps)]) == [None], "in one run"
    classes = np.array([[0.9, 0.09, 1e-3], [0.9, 0.09, 1e-1]], np.float32)
    assert parts([classes]) == [None], "a class that is rare is none, either"
    assert parts([classes[:1]]) != [None], "one sample does not tell"


def test_a_cut_is_made_wherever_all_samples_have_it() -> None:
    output = np.array([[640, 3, 0.05, 1e-4, 2], [300, 0.4, 0.002, 0, 1]], np.float32)
    found = parts([output])
    assert [tuple(np.flatnonzero(part[1])) for part in found] == [(2, 3), (1, 4), (0,)], (
        "what is next to nothing goes with the least"
    )
    assert {part[0] for part in found} == {1}


def test_samples_without_anything_tell_nothing() -> None:
    output = np.array([[640, 0.5], [0, 0], [300, 0.1]], np.float32)
    assert len(parts([output])) == 2
    assert parts([np.zeros_like(output)]) == [None]
    assert parts([output[:0]]) == [None]
    assert len(parts([output[:0], output])) == 2
