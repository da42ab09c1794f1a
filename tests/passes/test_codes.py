"""What a pass leaves alone has a code, and names what else it is about; the report has both."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnxslim.passes.lowrank.layer import find_layers
from onnxslim.passes.prune import Prune
from onnxslim.passes.quant.plan import make_plan
from onnxslim.passes.quant.table import load_table
from sample_models import from_text
from story import make_context

import onnxslim
from onnxslim.analysis.shapes import infer_shapes
from onnxslim.pipeline.interface import NoteKind
from onnxslim.report.json import to_json

TEXT = """<ir_version: 9, opset_import: ["" : 17]>
g (float[N,3,8,8] x, float u, float k, float v, float w) => (float[N,5] y, float[N,4,8,8] z) {
    a = Conv <pads = [1, 1, 1, 1]> (x, u)  d = Conv <pads = [1, 1, 1, 1], group = 8> (a, k)  t = Tanh (d)
    z = Conv (t, v)  s = Conv <auto_pad = "SAME_UPPER"> (t, v)
    p = GlobalAveragePool (s)  f = Flatten (p)  y = MatMul (f, w) }"""


def model() -> ir.Model:
    generator = np.random.default_rng(0)
    sizes = {"u": (8, 3, 3, 3), "k": (8, 1, 3, 3), "v": (4, 8, 1, 1), "w": (4, 5)}
    made = from_text(TEXT, **{name: generator.normal(size=size).astype(np.float32) for name, size in sizes.items()})
    infer_shapes(made)
    return made


@pytest.mark.parametrize(
    "step",
    [
        "quant",
        "quant:exclude=Conv",
        "quant:error=0.3",
        "prune:ratio=0.3",
        "prune:ratio=0.3:exclude=Conv",
        "prune:ratio=0.01:align=1",
        "prune:exact=true",
        "lowrank:rank=0.9",
        "lowrank:rank=0.1:smallest=1:pays=size",
        "lowrank:rank=0.5:smallest=1:pays=size:kinds=spatial",
        "lowrank:rank=0.5:include=w",
        "sparsify",
        "sparsify:pattern=2:4:smallest=1",
        "sparsify:exclude=v",
    ],
)
def test_what_is_left_alone_has_a_code(step: str) -> None:
    data = {"x": np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)}
    report = onnxslim.optimize(model(), step, data=data, measure=False, seed=0).report
    left = [note for note in report.passes[-1].changes if note.kind is NoteKind.LEFT_ALONE]
    assert left
    assert not [note for note in left if not note.code]
    told = [change for change in to_json(report)["passes"][-1]["changes"] if change["kind"] == "left-alone"]
    assert [(change["code"], tuple(change["nodes"]), tuple(change["values"])) for change in told] == [
        (note.code, note.nodes, note.values) for note in left
    ]


def test_a_reason_names_what_else_it_is_about() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17]> g (float[4,4] x, float w) => (float[4,4] y, float[4,4] z) {
        [m] y = MatMul (x, w)  [a] z = Add (x, w) }"""
    shared = from_text(text, w=np.eye(4))
    infer_shapes(shared)
    notes = [*make_plan(shared, load_table("cpu")).left, *find_layers(shared, smallest=1)[1]]
    assert {(note.subject, note.code, note.values) for note in notes} == {
        ("m", "weight-of-other-op", ("w",)),
        ("a", "constant-operand", ("w",)),
    }
    change = Prune(ratio=0.3).run(model(), make_context(model(), {"x": np.zeros((1, 3, 8, 8), np.float32)}))
    assert ("v axis 0", "graph-output", ("z",)) in {(note.subject, note.code, note.values) for note in change.notes}
