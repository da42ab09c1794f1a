"""Graphs within graphs: all are found, each node before what is nested in it."""

from __future__ import annotations

import onnx_ir as ir

from onnxslim.model.nesting import (
    captured_values,
    count_nodes,
    every_graph,
    graphs_within,
    main_graphs,
    nested_graphs,
    nodes_within,
)

TEXT = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
outer (bool c, float[2] x) => (float[2] y) {
    a = Relu (x)
    b = If (c) <
        then_branch = then_graph () => (float[2] t) {
            t0 = If (c) <
                then_branch = deep () => (float[2] d) { d = Abs (a) },
                else_branch = deeper () => (float[2] e) { e = Neg (a) }
            >
            t = Exp (t0)
        },
        else_branch = else_graph () => (float[2] f) { f = Sqrt (a) }
    >
    y = local.twice (b)
}
<domain: "local", opset_import: ["" : 17]>
twice (u) => (v) { w = Add (u, u)  v = Identity (w) }
"""


def test_nodes_come_before_what_is_nested_in_them() -> None:
    model = ir.from_onnx_text(TEXT)
    ops = [node.op_type for node in nodes_within(model.graph)]
    assert ops == ["Relu", "If", "If", "Abs", "Neg", "Exp", "Sqrt", "twice"]
    assert ops == [node.op_type for node in model.graph.all_nodes()]
    assert count_nodes(model) == len(ops)


def test_graphs_are_found_at_every_depth() -> None:
    model = ir.from_onnx_text(TEXT)
    names = [graph.name for graph in main_graphs(model)]
    assert names == ["outer", "then_graph", "deep", "deeper", "else_graph"]
    assert {graph.name for graph in model.graphs()} == set(names)
    branch = next(node for node in model.graph if node.op_type == "If")
    assert [graph.name for graph in nested_graphs(branch)] == ["then_graph", "else_graph"]
    assert len(list(graphs_within(next(iter(nested_graphs(branch)))))) == 3
    assert [len(graph) for graph in every_graph(model)] == [3, 2, 1, 1, 1, 2]


def test_values_are_captured_as_often_as_they_are_read() -> None:
    model = ir.from_onnx_text(TEXT)
    captured = {graph.name: [value.name for value in captured_values(graph)] for graph in main_graphs(model)}
    assert captured == {"outer": [], "then_graph": ["c", "a", "a"], "deep": ["a"], "deeper": ["a"], "else_graph": ["a"]}


def test_an_output_may_be_captured() -> None:
    model = ir.from_onnx_text(TEXT)
    graph = next(graph for graph in main_graphs(model) if graph.name == "else_graph")
    graph.outputs[0] = model.graph[0].outputs[0]
    assert [value.name for value in captured_values(graph)] == ["a", "a"]
