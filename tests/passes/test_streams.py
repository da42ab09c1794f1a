"""How often the passes that learn from samples stream them."""

from __future__ import annotations

import numpy as np
from counted_samples import counted_samples
from onnxslim.passes.lowrank import Lowrank, SplitGoal
from onnxslim.passes.prune import Prune
from sample_models import from_text
from story import make_context

COUNT = 40
TEXT = """<ir_version: 9, opset_import: ["" : 17]> g (float[N,3,8,8] x, float[1] u, float[1] v, float[1] w)
=> (float[N,5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u)  r = Relu (a)  c = Conv <pads = [1, 1, 1, 1]> (r, v)  s = Relu (c)
    p = GlobalAveragePool (s)  f = Flatten (p)  y = MatMul (f, w) }"""


def case():
    generator = np.random.default_rng(0)
    sizes = {"u": (32, 3, 3, 3), "v": (32, 32, 3, 3), "w": (32, 5)}
    weights = {name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    model = from_text(TEXT, **weights)
    feeds = [{"x": generator.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(COUNT)]
    samples, streams = counted_samples(feeds)
    return model, make_context(model, samples), streams


def test_pruning_streams_for_means_for_ranking_for_sensitivity_and_for_refitting() -> None:
    model, context, streams = case()
    assert Prune(ratio=0.3).run(model, context).modified
    assert streams == {COUNT: 4}


def test_splitting_streams_for_spectra_for_sensitivity_and_for_the_splits() -> None:
    model, context, streams = case()
    assert Lowrank(params=0.4, pays=SplitGoal.SIZE, smallest=64).run(model, context).modified
    assert streams == {COUNT: 2, 32: 1}
