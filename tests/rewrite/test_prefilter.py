"""What is told of a match at a glance is what reading it tells."""

from __future__ import annotations

import onnxslim.passes.simplify
import pytest

from onnxslim.rewrite import reader
from onnxslim.rewrite.prefilter import read_prefilter
from onnxslim.rewrite.reader import load_rules, rule_files
from onnxslim.rewrite.rule import Body, Rule
from onnxslim.rewrite.source import split_rules, split_templates

BOOK = onnxslim.passes.simplify.__name__


def depth(body: Body, name: str | None) -> int:
    if name is None or name not in body.makers or body.makers[name][0].is_constant:
        return 0
    return 1 + max((depth(body, each) for each in body.makers[name][0].inputs), default=0)


def input_producer(rule: Rule, name: str | None) -> str | None:
    if name is None or name not in rule.match.makers:
        return None
    maker = rule.match.makers[name][0]
    return "" if maker.is_constant else maker.op_type


@pytest.mark.parametrize("opset", [13, 21])
def test_every_prefilter_agrees_with_the_rule(opset: int) -> None:
    rules = load_rules(BOOK, opset)
    assert rules
    for rule in rules:
        seen = rule.prefilter
        root = rule.match.makers[rule.results[0].name][0]
        assert seen.root == (root.domain, root.op_type), rule.name
        assert seen.input_producers == tuple(input_producer(rule, name) for name in root.inputs), rule.name
        assert seen.required_producers == {post for post in seen.input_producers if post is not None}, rule.name
        assert seen.depth == depth(rule.match, rule.results[0].name), rule.name


def test_no_rule_demands_an_op_that_its_match_lacks() -> None:
    for rule in load_rules(BOOK, 21):
        assert rule.source.demands <= {node.op_type for node in rule.match.operations()}, rule.name
        assert rule.source.demands


def test_bodies_are_read_where_they_are_asked_for() -> None:
    reader._compiled.cache_clear()  # other tests may have read them all
    rules = load_rules(BOOK, 20, frozenset({"Relu", "Conv", "Add"}))
    read = {rule.name for rule in rules if "match" in vars(rule)}
    rule = next(rule for rule in rules if rule.name not in read)
    assert rule.prefilter.root[1]
    assert "match" not in vars(rule)
    assert rule.match.nodes


def test_what_makes_no_result_has_no_prefilter() -> None:
    assert read_prefilter("{z = Relu (x)  }", "y") is None
    assert read_prefilter("{a, y = Split <axis = 1> (x, s)  }", "y") is not None


@pytest.mark.parametrize("ops", [{"Relu", "Conv", "Add"}, {"Transpose", "Reshape", "MatMul", "Mul"}, set()])
def test_rules_for_the_ops_of_a_model_are_those_whose_demands_it_meets(ops: set[str]) -> None:
    everything = [source for name, text in rule_files(BOOK) for source in split_rules(text, name)]
    wanted = [source.name for source in everything if source.demands <= ops]
    found = load_rules(BOOK, 20, frozenset(ops))
    assert sorted(wanted) == sorted(rule.name for rule in found)


def test_a_template_demands_what_all_of_its_rules_do() -> None:
    for name, text in rule_files(BOOK):
        for template in split_templates(text, name):
            for source in template.rules:
                assert template.demands <= source.demands, source.name
