"""Detectors stay alive: what cannot share a scale on its way to the outputs stays float, and is named."""

from __future__ import annotations

import detector
import numpy as np
import pytest
from onnxslim.passes.quant import Quant
from onnxslim.passes.quant.coarse import COARSEST, FEWEST_LEVELS
from onnxslim.passes.quant.table import load_table
from sample_models import from_text
from story import make_context

from onnxslim.analysis.shapes import infer_shapes
from onnxslim.data import open_samples
from onnxslim.runtime.session import Session
from onnxslim.runtime.target import Target

VNNI = Target("cpu", "a processor", "avx512_vnni", 1)


def quantized(model, feeds, **options):
    """Return a quantized copy, and for each node why it was left in float."""
    after = model.clone()
    infer_shapes(after)
    samples = open_samples(feeds, Session.of(model, VNNI).inputs)
    context = make_context(model, samples, target=VNNI)
    change = Quant(**options).run(after, context)
    return after, {note.subject: note.reason for note in change.notes}


def sqnr(wanted, found):
    return 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum())


@pytest.mark.parametrize("gain", [12.0, 60.0])
def test_a_detector_goes_on_detecting(gain):
    model = detector.detector(gain)
    after, reasons = quantized(model, {"images": detector.photos(32)})
    images = detector.photos(64, seed=1)
    wanted = Session.of(model, VNNI).run({"images": images})["output"]
    found = Session.of(after, VNNI).run({"images": images})["output"]
    before, kept = detector.detections(wanted), detector.detections(found)
    total = sum(map(len, before))
    assert total > 60
    assert sum(len(one & two) for one, two in zip(before, kept, strict=True)) >= 0.95 * total
    assert sqnr(wanted[..., 4:], found[..., 4:]) > 25, "with one scale for boxes and scores: below 10"
    assert len(np.unique(found[..., 4:].round(6))) > 60
    assert any("scores" in reason for reason in reasons.values())
    assert sum(node.op_type == "QuantizeLinear" for node in after.graph) >= 3, "the rest runs in int8"


@pytest.mark.parametrize(("wide", "apart"), [(1.0, False), (2.0, False), (100.0, True)])
@pytest.mark.parametrize("behind", ["y = Transpose <perm = [0, 2, 3, 1]> (c)", "y = Conv (c, k)"])
def test_what_is_joined_shares_a_scale_only_where_that_is_bearable(wide, apart, behind):
    generator = np.random.default_rng(0)
    text = f"""<ir_version: 9, opset_import: ["" : 17]> g (float[N,4,6,6] x) => (float[] y) {{
        a = Conv (x, v)  b = Conv (x, w)  c = Concat <axis = 1> (a, b)  {behind} }}"""
    v = generator.normal(size=(4, 4, 1, 1)).astype(np.float32)
    weights = {"v": v, "w": v * np.float32(wide)}
    if "Conv" in behind:
        weights["k"] = generator.normal(size=(4, 8, 1, 1)).astype(np.float32)
    model = from_text(text, **weights)
    after, reasons = quantized(model, {"x": generator.normal(size=(8, 4, 6, 6)).astype(np.float32)})
    told = "differ too much to share a scale" in reasons.get("c", "")
    assert told == (apart and "Conv" not in behind)
    (joined,) = (node for node in after.graph if node.op_type == "Concat")
    reader = joined.outputs[0].uses()[0].node
    assert (reader.op_type == "QuantizeLinear") == (not told)


@pytest.mark.parametrize(("reach", "coarse"), [(4.0, False), (60.0, True)])
def test_scores_are_made_of_what_is_fine_enough(reach, coarse):
    generator = np.random.default_rng(0)
    model = from_text(
        """<ir_version: 9, opset_import: ["" : 17]> g (float[N,4,6,6] x) => (float[N,1,6,6] y) {
            a = Conv (x, v)  r = Relu (a)  l = Conv (r, w)  y = Sigmoid (l) }""",
        v=generator.normal(size=(8, 4, 1, 1)).astype(np.float32),
        w=generator.normal(size=(1, 8, 1, 1)).astype(np.float32),
    )
    x = generator.normal(size=(16, 4, 6, 6)).astype(np.float32)
    logits = model.graph[2].outputs[0]
    model.graph.outputs.append(logits)
    logits.dtype = model.graph.outputs[0].dtype
    seen = Session.of(model, VNNI).run({"x": x})["l"]
    model.graph.outputs.pop()
    weight = model.graph.initializers["w"]
    weight.const_value = type(weight.const_value)(
        weight.const_value.numpy() * np.float32(reach / np.ptp(seen)), name="w"
    )
    _, reasons = quantized(model, {"x": x})
    assert ("Sigmoid makes scores of it" in reasons.get("l", "")) == coarse


def test_the_thresholds_leave_what_int8_needs():
    assert 255 / FEWEST_LEVELS > 4, "parts that differ by a few times are common, and no harm"
    assert COARSEST * 255 > 12, "logits of -6 to 6 make nearly all scores there are"


def test_only_ops_that_join_or_score_are_watched():
    rows = load_table("cpu").rows
    assert [name for name, row in rows.items() if row.joins] == ["Concat"]
    assert [name for name, row in rows.items() if row.scores] == ["Sigmoid", "HardSigmoid"]
