"""What is not finite is found where it begins, and told by each pass in its own line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sample_models import from_text

import onnxslim
from onnxslim.data import open_samples
from onnxslim.observe.not_finite import first_not_finite
from onnxslim.report.json import to_json
from onnxslim.runtime.session import Session

NET = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,8] x, float[N,16,8,8] z) => (float[N,8,8,8] y) {
    a = Conv <pads = [1,1,1,1]> (x, w)  r = Relu (a)  l = Log (z)  s = Add (r, l)
    t = Conv <pads = [1,1,1,1]> (s, v)  u = Relu (t)  y = Conv <pads = [1,1,1,1]> (u, k)
}"""


def net():
    generator = np.random.default_rng(0)
    sizes = {"w": (16, 3, 3, 3), "v": (32, 16, 3, 3), "k": (8, 32, 3, 3)}
    return from_text(NET, **{name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()})


def data(count=64):
    generator = np.random.default_rng(1)
    return {
        "x": generator.normal(size=(count, 3, 8, 8)).astype(np.float32),
        "z": generator.uniform(1, 2, size=(count, 16, 8, 8)).astype(np.float32),
    }


def spoilt(name, number, places):
    arrays = data()
    for place in places:
        arrays[name][place, 2, 3, 4] = number
    return arrays


CASES = {
    "a NaN in one sample of many": ("x", np.nan, [41], "the input x is NaN on sample 41 (counted from 0)"),
    "an infinity": ("z", np.inf, [0], "the input z is infinite on sample 0 (counted from 0)"),
    "several": ("x", -np.inf, [3, 9, 50], "the input x is infinite on sample 3 (counted from 0) and 2 more"),
    "one that arises within": ("z", -1.0, [7], "the value l, which Log makes, is NaN on sample 7 (counted from 0)"),
    "an infinity that arises within": (
        "z",
        0.0,
        [7],
        "the value l, which Log makes, is infinite on sample 7 (counted from 0)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_found_where_it_begins(case):
    name, number, places, told = CASES[case]
    model = net()
    samples = open_samples(spoilt(name, number, places), Session.of(model).inputs)
    assert str(first_not_finite(model, samples, Session.of)) == told


def test_a_sample_keeps_its_number_where_samples_are_divided():
    model = net()
    parts = open_samples(spoilt("x", np.nan, [41]), Session.of(model).inputs).split(0.5, np.random.default_rng(3))
    found = [str(first_not_finite(model, part, Session.of)) for part in parts]
    assert sorted(found) == ["None", "the input x is NaN on sample 41 (counted from 0)"]


def test_what_is_finite_and_what_is_meant_is_let_be():
    model = net()
    assert first_not_finite(model, open_samples(data(4), Session.of(model).inputs), Session.of) is None
    arrays = spoilt("z", 0.0, [1])
    arrays["z"] = arrays["z"][:4]
    arrays["x"] = arrays["x"][:4]
    samples = open_samples(arrays, Session.of(model).inputs)
    assert first_not_finite(model, samples, Session.of, names=["a"]) is None, "an infinity elsewhere is another matter"


@pytest.mark.parametrize("case", ["a NaN in one sample of many", "one that arises within"])
@pytest.mark.parametrize(
    "step", ["quant", "prune:ratio=0.5", "lowrank:rank=0.3:smallest=1:pays=size", "sparsify:method=obs"]
)
def test_each_pass_says_in_its_own_line_what_is_not_finite(step, case):
    name, number, places, told = CASES[case]
    report = onnxslim.optimize(
        net(), step, data=spoilt(name, number, places), val=data(8), measure=False, seed=0
    ).report
    record = report.passes[-1]
    lines = [record.reason, *(note.reason for note in record.changes)]
    assert any(told in line for line in lines), lines
    assert told in json.dumps(to_json(report))
    assert record.kept or told in record.reason, "where nothing is done that is the reason"
