from __future__ import annotations

from channel_models import CHANNEL_MODELS
from classifier import classifier
from sample_models import from_text

from onnxslim.analysis.regions import common_regions, grouped


def names(nodes) -> list[str]:
    return [node.op_type for node in nodes]


def test_what_was_fused_belongs_to_the_value_that_it_makes():
    after = from_text(
        """
        <ir_version: 10, opset_import: ["": 18]>
        slim (float[N, 8] x, float[8, 3] w1a, float[3, 64] w1b, float[64, 4] w2) => (float[N, 4] logits) {
            narrow = MatMul (x, w1a)
            same = MatMul (narrow, w1b)
            positive = Relu (same)
            logits = MatMul (positive, w2)
        }
        """
    )
    regions = common_regions(classifier(), after)
    assert [(each.value, names(each.before), names(each.after)) for each in regions] == [
        ("same", ["MatMul", "Identity"], ["MatMul", "MatMul"]),
        ("positive", ["Relu"], ["Relu"]),
        ("logits", ["MatMul"], ["MatMul"]),
    ]


def test_every_node_is_in_one_region_in_the_order_of_the_model():
    for model in CHANNEL_MODELS.values():
        regions = common_regions(model, model)
        assert {node for region in regions for node in region.before} == set(model.graph)
        assert sum(len(region.before) for region in regions) == len(model.graph)
        assert all(region.before == region.after for region in regions)
        places = {node: place for place, node in enumerate(model.graph)}
        ends = [places[region.before[-1]] for region in regions]
        assert ends == sorted(ends)


def test_nodes_with_nothing_behind_them_are_together_and_chains_may_be_long():
    model = classifier()
    assert {name: names(nodes) for name, nodes in grouped(model.graph, {"hidden"}).items()} == {
        "hidden": ["MatMul"],
        "": ["Identity", "Relu", "MatMul"],
    }
    long = "\n".join(f"v{at + 1} = Relu (v{at})" for at in range(5000))
    text = f'<ir_version: 10, opset_import: ["": 18]> g (float[4] v0) => (float[4] v5000) {{ {long} }}'
    chain = from_text(text)
    assert len(grouped(chain.graph, {"v5000"})["v5000"]) == 5000


def test_branches_count_where_they_are_read():
    model = from_text(
        """
        <ir_version: 10, opset_import: ["": 18]>
        g (bool c, float[4] x) => (float[4] y) {
            inner = Relu (x)
            y = If (c) <
                then_branch = t () => (float[4] a) { a = Neg (inner) },
                else_branch = e () => (float[4] b) { b = Abs (inner) }
            >
        }
        """
    )
    assert names(grouped(model.graph, {"y"})["y"]) == ["Relu", "If"]
