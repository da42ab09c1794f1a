"""Plans: what a pass would do, the reasons of what it leaves alone, counted; as a table, as JSON, from any pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from sample_models import from_text

from onnxslim.commands.plan import plan_model
from onnxslim.pipeline.plan import Finding, Planned, gather, ordered

CONVOLUTIONS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] z)
<float[2,2,1,1] w = {1, 2, 3, 4}, float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {0, 0}, float[2] v = {1, 1}>
{
    a = Conv (x, w)
    c = BatchNormalization (a, s, b, m, v)
    d = Conv (c, w)
    y = BatchNormalization (d, s, b, m, v)
    z = Relu (d)
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    ir.save(from_text(CONVOLUTIONS), path)
    return path


def test_a_plan_counts_sites_and_says_why_not(path: Path):
    (told,) = plan_model(path).passes
    assert (told.name, told.kind, told.plan.nodes) == ("simplify", "exact", (5, 4))
    rows = {row.subject: row for row in told.plan.lines}
    fused = rows["conv_batch_normalization"]
    assert fused.sites == 1
    assert [(each.reason, each.count) for each in fused.obstacles] == [("the Conv's output is needed elsewhere", 1)]
    assert fused.obstacles[0].detail == "d is needed elsewhere"
    assert ir.load(path).graph[1].op_type == "BatchNormalization"


def test_equal_reasons_are_counted_the_most_frequent_first():
    findings = [Finding("rare", "n1", "r1"), Finding("often", "n2", "o2", "c", ("n2",)), Finding("often", "n3", "o3")]
    often, rare = gather(findings)
    assert (often.reason, often.count, often.example, often.detail) == ("often", 2, "n2", "o2")
    assert (often.code, often.nodes, often.values) == ("c", ("n2",), ())
    assert rare.count == 1
    lines = [Planned("a", 0), Planned("b", 0, "", (often,)), Planned("c", 3)]
    assert [line.subject for line in ordered(lines)] == ["c", "b", "a"]


def test_any_pass_has_a_plan_and_those_before_it_count(path: Path, trim, model: Path):
    (told,) = plan_model(model, "trim").passes
    assert [(line.subject, line.sites, line.action) for line in told.plan.lines] == [("same", 1, "removed")]
    assert told.plan.nodes[0] - told.plan.nodes[1] == 1
    simplify, trimmed = plan_model(model, "simplify,trim").passes
    assert simplify.plan.nodes[1] == trimmed.plan.nodes[0]


def test_the_command_prints_tables_and_json(onnxslim, path: Path):
    answer = onnxslim("inspect", path, "--plan")
    assert answer.code == 0, answer.err
    out = " ".join(answer.out.split())
    for words in ("simplify (exact): 5 -> 4 nodes", "conv_batch_normalization 1", "output is needed elsewhere"):
        assert words in out
    record = json.loads(onnxslim("inspect", path, "--plan", "-p", "simplify", "--json").out)
    assert record["passes"][0]["plan"]["nodes"] == [5, 4]
    (obstacle,) = (
        obstacle
        for row in record["passes"][0]["plan"]["lines"]
        for obstacle in row["obstacles"]
        if row["subject"] == "conv_batch_normalization"
    )
    assert (obstacle["code"], obstacle["nodes"], obstacle["values"]) == ("needed-elsewhere", [], ["d"])


def test_passes_without_a_plan_are_a_mistake(onnxslim, path: Path):
    answer = onnxslim("inspect", path, "-p", "simplify")
    assert (answer.code, answer.out) == (2, "")
    assert "--plan" in answer.err


def test_exact_pruning_is_planned_as_what_it_is_and_done_is_not_left_alone(tmp_path: Path):
    weights = np.random.default_rng(0).standard_normal((4, 12)).astype(np.float32)
    weights[:, 3:5] = 0
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, float[4,12] w, float[12,3] w2) => (float[N,3] y) {
            a = MatMul (x, w)  r = Relu (a)  y = MatMul (r, w2) }""",
        w=weights,
        w2=np.ones((12, 3), np.float32),
    )
    ir.save(model, tmp_path / "dead.onnx")
    told = plan_model(tmp_path / "dead.onnx", "prune:exact=true").passes[-1]
    assert (told.name, told.kind) == ("prune", "exact")
    (line,) = (row for row in told.plan.lines if row.subject == "w")
    assert (line.sites, line.obstacles) == (1, ())
    assert line.action.startswith("2 dead channels removed: ")
    assert not any(row.obstacles and row.sites for row in told.plan.lines)
