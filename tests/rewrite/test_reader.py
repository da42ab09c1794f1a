from __future__ import annotations

import pytest

from onnxslim.errors import RuleError
from onnxslim.rewrite.reader import load_rules, read_rules, rule_names
from onnxslim.rewrite.rule import DoesNotCheck, Reference
from onnxslim.rewrite.signature import DimensionRun, read_parameters

RELU = """
# Two rectifiers
# are one.
relu_relu (x) => (y)
match   { a = Relu (x)  y = Relu (a) }
rewrite { y = Relu (x) }
"""


def test_rule_carries_name_place_comment_and_source():
    (rule,) = read_rules(RELU, 17, "themes.rules")
    assert (rule.name, rule.source.where, rule.source.comment) == (
        "relu_relu",
        "themes.rules:4",
        "Two rectifiers are one.",
    )
    assert rule.prefilter.depth == 2
    assert rule.prefilter.root == ("", "Relu")


def test_dots_stand_for_the_attributes_that_are_not_named():
    (rule,) = read_rules(
        """c <group> (x, w) => (y)
        match   { a = Conv <group = @group, ...> (x, w)  y = Relu (a) }
        rewrite { y = Conv <group = @group, ...> (x, w) }""",
        17,
    )
    names = {name: each.name for name, each in rule.match.nodes[0].attributes.items() if isinstance(each, Reference)}
    assert names["group"] == "group"
    assert names["strides"] == "Conv_strides"
    assert set(rule.attributes) == {"group", *(f"Conv_{n}" for n in names if n != "group")}


def test_same_text_at_another_opset():
    text = """p (x, pads) => (y)
        match   { a = Pad <...> (x, pads)  y = Neg (a) }
        rewrite { y = Neg (x) }"""
    assert len(read_rules(text, 13)) == 1
    with pytest.raises(RuleError, match="at opset 10"):
        read_rules(text, 10)


def test_literals_are_read_before_constant_had_them():
    (rule,) = read_rules(
        """r <p> (x) => (y)
        match   { y = Transpose <perm = @p> (x) }
        when    { i = Constant <value_ints = @p> ()  ok = Equal (i, i) }
        rewrite { y = Identity (x) }""",
        11,
    )
    assert [word for word, _ in rule.bodies()] == ["match", "rewrite", "when"]


def test_other_domains_are_not_checked():
    (rule,) = read_rules(
        "g (x) => (y) match { y = com.microsoft.Gelu (x) } rewrite { y = Relu (x) }".replace(") match", ")\nmatch"), 17
    )
    assert rule.prefilter.root[0] == "com.microsoft"


def test_rules_that_do_not_check_at_an_opset_are_skipped_with_the_reason():
    usable = {rule.name for rule in load_rules("onnxslim.passes.simplify", 11)}
    assert "twice_is_once_relu" in usable
    assert "gelu" not in usable
    ops = frozenset({"Div", "Erf", "Add", "Mul"})
    (gelu,) = (rule for rule in load_rules("onnxslim.passes.simplify", 11, ops) if rule.name == "gelu")
    with pytest.raises(DoesNotCheck, match="Gelu"):
        _ = gelu.rewrite


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"__init__.py": ""}, "no .*rules file"),
        ({"__init__.py": "", "a.rules": RELU.replace("Relu (a)", "Relux (a)")}, "relu_relu calls Relux, which ONNX"),
        ({"__init__.py": "", "a.rules": RELU.replace("{ y = Relu (x)", "{ y = Rellu (x)")}, "calls Rellu, which ONNX"),
        (
            {
                "__init__.py": "",
                "a.rules": "r for F = Relu | Tanhh (x) => (y)\nmatch { y = F (x) }\nrewrite { y = F (x) }",
            },
            "calls Tanhh, which ONNX",
        ),
    ],
)
def test_what_would_be_skipped_at_every_opset_is_an_error(files, message, tmp_path, monkeypatch):
    package = f"rules_{abs(hash(message))}"  # what was read of a package is kept
    for name, text in files.items():
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuleError, match=message):
        load_rules(package, 21, frozenset({"Relu"}))


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("r (x) => (y)\nmatch { y = Relu (x }\nrewrite { y = Relu (x) }", "does not read", 2),
        ("r (x) => (y)\nmatch { y = Relu (x)\n", "never closed", 2),
        ("r (x) => (y)\nmatch { y = Relu (x) }", "has no rewrite", 1),
        ("what is this {}", "begins no rule", 1),
        (RELU + "leftover", "belongs to no rule", 7),
        (RELU + RELU, "two rules named relu_relu", 10),
        ("r (x) => (y)\nmatch { y = NoSuchOp (x) }\nrewrite { y = Relu (x) }", "does not check at opset", 1),
        ("r (x) => (y)\nmatch { y = NoSuchOp <...> (x) }\nrewrite { y = Relu (x) }", "there is no NoSuchOp", 1),
        ("r (x) => (y)\nmatch { y = Relu <alpha = @a> (x) }\nrewrite { y = Relu (x) }", "nobody declares", 1),
        ("r <a> (x) => (y)\nmatch { y = Relu <alpha = @a> (x) }\nrewrite { y = Relu (x) }", "no attribute alpha", 1),
        ("r <a> (x) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Elu <alpha = @a> (x) }", "does not bind", 1),
        (
            "r (x) => (y)\nmatch { a = Neg (x) y = Relu (a) }\nrewrite { y = Elu <...> (x) }",
            "uses Elu <...>, which its match does not bind",
            1,
        ),
        ("r (x) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Neg (xx) }", "reads xx in rewrite, which is no param", 1),
        ("r (x, z) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Add (x, z) }", "does not match its parameter z", 1),
        (
            "r (x) => (y, z)\nmatch { y = Relu (x) z = Neg (x) }\nrewrite { y = Relu (x) z = Abs (x) }",
            "cannot be matched",
            1,
        ),
        ("r (flaot x) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Relu (x) }", "no element type 'flaot'", 1),
        (
            "r (float[?] x) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Relu (x) }",
            "'?' is no size".replace("?", r"\?"),
            1,
        ),
        ("r (float[...,...] x) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Relu (x) }", "more than one run", 1),
        ("r (float x = 0) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Relu (x) }", "needs sizes", 1),
        ("r (x) => (y)\nmatch { z = Relu (x) }\nrewrite { y = Relu (x) }", "does not make y", 1),
        ("r (x) => ()\nmatch { z = Relu (x) }\nrewrite { z = Relu (x) }", "does not make anything", 1),
        ("r (9x) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Relu (x) }", "no parameter", 1),
        ("r ([ x) => (y)\nmatch { y = Relu (x) }\nrewrite { y = Relu (x) }", "no type", 1),
    ],
)
def test_errors_name_file_and_line(text, message, line):
    with pytest.raises(RuleError, match=message) as caught:
        read_rules(text, 17, "bad.rules")
    assert caught.value.where == f"bad.rules:{line}"


def test_parameters():
    x, b, c = read_parameters("T[N,C*group,...S] x, floating[M] b = 0, float[1?,M,1...S] | [] c", "here")
    assert x.types[0].sizes == ("N", "C*group", DimensionRun("S"))
    assert b.zero
    assert c.types[0].leading_one
    assert c.types[0].sizes == ("M", DimensionRun("S", ones=True))
    assert c.types[1].sizes == ()
    assert c.types[1].element == "float"
    assert read_parameters("  ", "here") == ()


def test_names_need_no_opset():
    assert rule_names(RELU, "<text>") == ("relu_relu",)
