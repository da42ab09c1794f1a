"""What changed between two models, as golden text: regions, repetitions, constants, subgraphs."""

from __future__ import annotations

import io

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console
from sample_models import from_text

from onnxslim.commands.difference import compare_graphs
from onnxslim.commands.onnx_text import node_text
from onnxslim.model import canonicalize
from onnxslim.report.difference import print_difference


def graph(body, outputs="float[N,4] y", **weights):
    model = from_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x, float[4,4] w, bool c) => ({outputs}) {{ {body} }}',
        **weights,
    )
    canonicalize(model)
    return model


def told(before, after):
    file = io.StringIO()
    print_difference(compare_graphs(before, after, ("a.onnx", "b.onnx")), Console(file=file, width=40))
    return file.getvalue()


BEFORE = """
p = MatMul (x, w)  q = Identity (p)  r = Relu (q)
p2 = MatMul (r, w)  q2 = Identity (p2)  r2 = Relu (q2)
s = Softmax <axis = 1> (r2)  t = Cast <to = 1> (s)  y = Neg (t)
"""
AFTER = """
p = MatMul (x, w)  r = Relu (p)
p2 = MatMul (r, w)  r2 = Relu (p2)
s = Softmax <axis = -1> (r2)  y = Neg (s)
"""
GOLDEN = """\
--- a.onnx
+++ b.onnx
@@ region 1 of 3, the same once more @@
- q = Identity (p)
- r = Relu (q)
+ r = Relu (p)
@@ region 2 of 3 @@
- s = Softmax <axis = 1> (r2)
+ s = Softmax <axis = -1> (r2)
@@ region 3 of 3 @@
- t = Cast <to = 1> (s)
- y = Neg (t)
+ y = Neg (s)
"""


def test_the_change_by_region_and_equal_regions_once():
    assert told(graph(BEFORE), graph(AFTER)) == GOLDEN
    difference = compare_graphs(graph(BEFORE), graph(AFTER))
    assert difference.unchanged == 2
    assert [region.times for region in difference.regions] == [2, 1, 1]


def test_equal_models_have_no_regions_whatever_their_nodes_are_called():
    named = graph(BEFORE)
    for at, node in enumerate(named.graph):
        node.name = f"another {at}"
    assert told(graph(BEFORE), named) == "--- a.onnx\n+++ b.onnx\n"


def test_nodes_that_only_one_side_has():
    assert "- d = Neg (x)\n" in told(graph("y = Relu (x)  d = Neg (x)"), graph("y = Relu (x)"))
    assert "+ d = Neg (x)\n" in told(graph("y = Relu (x)"), graph("y = Relu (x)  d = Neg (x)"))


def test_constants_that_hold_other_numbers_are_named():
    before, after = (graph("y = MatMul (x, w)", w=np.full((4, 4), number, np.float32)) for number in (1, 2))
    assert told(before, after).endswith(
        "@@ region 1 of 1 @@\n- y = MatMul (x, w[4,4])\n+ y = MatMul (x, w[4,4])\n# other numbers in w\n"
    )
    assert not compare_graphs(before, before.clone()).regions


def test_constants_with_another_name_and_the_same_numbers_are_no_change():
    ones = np.ones((4, 4), np.float32)
    other = graph("y = MatMul (x, w)", w=ones)
    other.graph.initializers["w"].name = "v"
    assert not compare_graphs(graph("y = MatMul (x, w)", w=ones), other).regions


BRANCH = """y = If (c) <
    then_branch = t () => (float[N,4] p) {{ p = {op} (x) }},
    else_branch = e () => (float[N,4] q) {{ q = Neg (x) }} >"""


def test_a_change_in_a_subgraph_is_a_change_of_its_node():
    before, after = graph(BRANCH.format(op="Relu")), graph(BRANCH.format(op="Abs"))
    assert not compare_graphs(before, graph(BRANCH.format(op="Relu"))).regions
    (region,) = compare_graphs(before, after).regions
    assert region.before == ("y = If <else_branch = {1 nodes}, then_branch = {1 nodes}> (c)",)


def test_a_value_that_only_a_subgraph_reads_joins_its_region():
    inner = BRANCH.format(op="Relu").replace("Relu (x)", "Relu (h)")
    (region,) = compare_graphs(graph("h = Identity (x) " + inner), graph(BRANCH.format(op="Relu"))).regions
    assert len(region.before) == 2


@pytest.mark.parametrize(
    ("body", "weights", "text"),
    [
        ("y = Relu (x)", {}, "y = Relu (x)"),
        ("y = Gemm <alpha = 0.5, transB = 1> (x, w)", {}, "y = Gemm <alpha = 0.5, transB = 1> (x, w)"),
        ("y = Clip (x, , k)", {"k": np.array(6, np.float32)}, "y = Clip (x, , k{6})"),
        ("y = Reshape (x, k)", {"k": np.array([0, -1], np.int64)}, "y = Reshape (x, k{0, -1})"),
        ("y = Add (x, k)", {"k": np.zeros(7, np.float32)}, "y = Add (x, k[7])"),
        ("y, m = Dropout (x)", {}, "y, m = Dropout (x)"),
        ('y = my.Op <mode = "fast", s = ["a", "b"]> (x)', {}, 'y = my.Op <mode = "fast", s = ["a", "b"]> (x)'),
        ("y = Op <i = [1, 2, 3, 4, 5, 6, 7]> (x)", {}, "y = Op <i = [1, 2, 3, 4, 5, 6, ...]> (x)"),
    ],
)
def test_a_node_is_a_line(body, weights, text):
    model = from_text(
        '<ir_version: 8, opset_import: ["" : 17, "my" : 1]> g (float[N,4] x, float[4,4] w, float k) '
        f"=> (float[N,4] y) {{ {body} }}",
        **weights,
    )
    assert node_text(model.graph[0]) == text


def test_colours_only_where_the_console_has_them():
    difference = compare_graphs(graph(BEFORE), graph(AFTER))
    coloured = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80, no_color=False)
    print_difference(difference, coloured)
    assert "\x1b[31m- q" in coloured.file.getvalue()


def test_text_that_looks_like_markup_is_text():
    before = graph("a = Neg (x)  y = Relu (a)")
    before.graph[0].outputs[0].name = "[red]a"
    assert "- [red]a = Neg (x)" in told(before, graph("y = Relu (x)"))


def test_large_external_weights_are_read_where_they_lie(tmp_path):
    model = graph("y = MatMul (x, w)", w=np.eye(4, dtype=np.float32))
    ir.save(model, tmp_path / "m.onnx", external_data="m.data")
    loaded = ir.load(tmp_path / "m.onnx")
    assert not compare_graphs(model, loaded).regions
