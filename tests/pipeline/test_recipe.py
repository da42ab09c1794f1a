from __future__ import annotations

import dataclasses
import enum
import math
from typing import Annotated, ClassVar

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxslim.pipeline.options
from onnxslim.errors import BadOptionValue, ExtensionError, RecipeError, UnknownOption, UnknownPass, UsageError
from onnxslim.pipeline.interface import Change, Context, Kind, Pass
from onnxslim.pipeline.options import format_passes, make_pass, option_values, options_of, parse_passes
from onnxslim.pipeline.recipe import Recipe, load_recipe, read_recipe, to_toml


class Criterion(enum.Enum):
    TAYLOR = "taylor"
    MAGNITUDE = "magnitude"


class Bits(enum.IntEnum):
    FOUR = 4
    EIGHT = 8


@dataclasses.dataclass(frozen=True)
class Nothing(Pass):
    def run(self, model: ir.Model, context: Context) -> Change:
        return Change(False)


@dataclasses.dataclass(frozen=True)
class Trim(Nothing):
    """Trims."""

    name: ClassVar[str] = "trim"
    kind: ClassVar[Kind] = Kind.LOSSY

    ratio: Annotated[float, "share to remove"] = 0.3
    align: Annotated[int, "multiple to keep"] = 8
    criterion: Annotated[Criterion, "how importance is measured"] = Criterion.TAYLOR
    bits: Annotated[Bits, "width"] = Bits.EIGHT
    exclude: Annotated[tuple[str, ...], "nodes to leave alone"] = ()
    whole: Annotated[bool, "rank over the whole model"] = True
    note: Annotated[str, "free text"] = ""
    limit: Annotated[int | None, "at most so many"] = None
    tag: Annotated[str | None, "a word"] = None

    def __post_init__(self) -> None:
        if self.align == 13:
            raise ValueError("align must not be 13")
        if self.align == 14:
            raise BadOptionValue("align must not be 14")


@dataclasses.dataclass(frozen=True)
class Plain(Nothing):
    name: ClassVar[str] = "plain"
    kind: ClassVar[Kind] = Kind.EXACT


@pytest.fixture(autouse=True, scope="module")
def _passes():
    def find(name: str) -> type[Pass]:
        for each in (Trim, Plain):
            if each.name == name:
                return each
        raise UnknownPass(f"there is no pass named {name!r}", where="-p", hint="the passes are: plain, trim")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxslim.pipeline.options, "find_pass", find)
        yield


def test_a_name_alone_means_the_defaults():
    assert parse_passes("trim,plain") == (Trim(), Plain())


def test_options_of_every_type():
    text = "trim:ratio=0.5:align=16:criterion=magnitude:bits=four:exclude=a+b/c:whole=no:note=x%3Ay:limit=3:tag=t"
    expected = Trim(0.5, 16, Criterion.MAGNITUDE, Bits.FOUR, ("a", "b/c"), False, "x:y", 3, "t")
    assert parse_passes(text) == (expected,)


def test_a_switch_needs_no_value_and_none_is_a_value_where_it_may_be():
    assert parse_passes("trim:whole:limit=none:exclude=") == (Trim(),)


def test_spaces_around_commas_and_repeated_passes_are_fine():
    assert parse_passes(" plain , trim, plain") == (Plain(), Trim(), Plain())


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("nosuch", UnknownPass, ["nosuch", "-p"]),
        ("", UsageError, ["missing"]),
        ("plain,,trim", UsageError, ["missing"]),
        ("trim:ration=1", UnknownOption, ["'ration'", "did you mean ratio?", "ratio, align, criterion"]),
        ("trim:zzz=1", UnknownOption, ["'zzz'", "trim has the options ratio, align"]),
        ("plain:ratio=1", UnknownOption, ["plain has no options"]),
        ("trim:ratio", BadOptionValue, ["needs a value", "share to remove: number"]),
        ("trim:ratio=often", BadOptionValue, ["'often'", "-p trim:ratio", "ratio is share to remove: number"]),
        ("trim:ratio=nan", BadOptionValue, ["'nan'"]),
        ("trim:ratio=inf", BadOptionValue, ["'inf'"]),
        ("trim:align=1.5", BadOptionValue, ["whole number"]),
        ("trim:whole=perhaps", BadOptionValue, ["true or false"]),
        ("trim:criterion=tailor", BadOptionValue, ["did you mean taylor?", "choose taylor, magnitude"]),
        ("trim:criterion=zzz", BadOptionValue, ["choose taylor, magnitude"]),
        ("trim:exclude=a++b", BadOptionValue, ["names joined by +"]),
        ("trim:limit=x", BadOptionValue, ["whole number, or none"]),
        ("trim:ratio=none", BadOptionValue, ["number"]),
        ("trim:align=1:align=2", BadOptionValue, ["given twice"]),
        ("trim:align=13", BadOptionValue, ["must not be 13", "-p trim", "onnxslim passes trim"]),
        ("trim:align=14", BadOptionValue, ["must not be 14", "-p"]),
    ],
)
def test_what_cannot_be_understood_is_said(text: str, error: type[UsageError], words: list[str]):
    with pytest.raises(error) as raised:
        parse_passes(text)
    for word in words:
        assert word in str(raised.value)
    assert raised.value.exit_code == 2


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
trims = st.builds(
    Trim,
    ratio=finite,
    align=st.integers().filter(lambda value: value not in (13, 14)),
    criterion=st.sampled_from(Criterion),
    bits=st.sampled_from(Bits),
    exclude=st.lists(names, max_size=3).map(tuple),
    whole=st.booleans(),
    note=names | st.sampled_from(["", "none", "~", "a b", "$x"]),
    limit=st.none() | st.integers(),
    tag=st.none() | names,
)
pipelines = st.lists(trims | st.just(Plain()), min_size=1, max_size=3).map(tuple)


@given(pipelines)
@settings(max_examples=60, deadline=None)
def test_what_is_formatted_parses_back_and_no_shell_eats_it(passes: tuple[Pass, ...]):
    text = format_passes(passes)
    assert parse_passes(text) == passes
    assert not set(text) & set(" \t\n'\"\\$&|;<>()*?[]{}#!~`^")


def test_the_word_none_as_text_survives():
    assert parse_passes(format_passes([Trim(tag="none")])) == (Trim(tag="none"),)


@given(
    pipelines,
    st.none() | st.floats(0, 1),
    st.none() | st.integers(0, 2**63 - 1),
    st.none() | st.floats(0.5, 1, exclude_max=True),
)
@settings(max_examples=60, deadline=None)
def test_a_recipe_prints_and_reads_back(
    passes: tuple[Pass, ...], max_drop: float | None, seed: int | None, confidence: float | None
):
    recipe = Recipe(passes, max_drop, seed, confidence)
    assert read_recipe(to_toml(recipe)) == recipe


@given(trims)
@settings(max_examples=30, deadline=None)
def test_a_pass_is_made_again_from_its_option_values(step: Trim):
    assert make_pass("trim", option_values(step)) == step


def test_a_recipe_as_it_is_printed():
    recipe = Recipe((Trim(exclude=("a", "b")), Plain()), 0.01, 7)
    assert (
        to_toml(recipe)
        == """\
seed = 7
max_drop = 0.01

[passes.trim]
ratio = 0.3
align = 8
criterion = "taylor"
bits = "eight"
exclude = ["a", "b"]
whole = true
note = ""
limit = "none"
tag = "none"

[passes.plain]
"""
    )


def test_a_recipe_from_a_file_tables_or_text(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("max_drop = 0\n[passes.plain]\n[passes.trim]\nratio = 1\n")
    assert load_recipe(path) == Recipe((Plain(), Trim(1.0)), 0.0, None)
    path.write_text('passes = "trim:ratio=1,plain"\nseed = 3\n')
    assert load_recipe(str(path)) == Recipe((Trim(1.0), Plain()), None, 3)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("seed = \n", RecipeError, ["r.toml:1", "no TOML"]),
        ("seed = 1\n", RecipeError, ["names no passes"]),
        ('passes = "plain"\nsead = 1\n', RecipeError, ["'sead'", "did you mean seed?"]),
        ('passes = "plain"\nseed = -1\n', RecipeError, ["r.toml: seed"]),
        ('passes = "plain"\nseed = true\n', RecipeError, ["r.toml: seed"]),
        ('passes = "plain"\nmax_drop = "low"\n', RecipeError, ["r.toml: max_drop"]),
        ('passes = "plain"\nmax_drop = 1.5\n', RecipeError, ["0 to 1"]),
        ('passes = "plain"\nconfidence = 1.0\n', RecipeError, ["0.5 to 1"]),
        ("passes = 3\n", RecipeError, ["r.toml: passes"]),
        ("[passes]\ntrim = 3\n", RecipeError, ["r.toml: passes"]),
        ('passes = "nosuch"\n', UnknownPass, ["r.toml: passes"]),
        ("[passes.nosuch]\n", UnknownPass, ["r.toml: [passes.nosuch]"]),
        ("[passes.trim]\nration = 1\n", UnknownOption, ["r.toml: [passes.trim]", "did you mean ratio?"]),
        ('[passes.trim]\nratio = "much"\n', BadOptionValue, ["r.toml: [passes.trim] ratio", "number"]),
        ("[passes.trim]\nratio = inf\n", BadOptionValue, ["ratio"]),
        ("[passes.trim]\nratio = true\n", BadOptionValue, ["ratio"]),
        ("[passes.trim]\nalign = 1.0\n", BadOptionValue, ["whole number"]),
        ("[passes.trim]\nalign = true\n", BadOptionValue, ["whole number"]),
        ('[passes.trim]\nexclude = "a"\n', BadOptionValue, ["exclude"]),
        ('[passes.trim]\nexclude = [""]\n', BadOptionValue, ["exclude"]),
        ('[passes.trim]\ncriterion = "x"\n', BadOptionValue, ["choose taylor, magnitude"]),
        ("[passes.trim]\ncriterion = 1\n", BadOptionValue, ["criterion"]),
        ("[passes.trim]\nalign = 13\n", BadOptionValue, ["must not be 13"]),
    ],
)
def test_a_recipe_that_means_nothing(tmp_path, text: str, error: type[UsageError], words: list[str]):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(error) as raised:
        load_recipe(path)
    for word in words:
        assert word in str(raised.value)


def test_a_recipe_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "photo.jpg")


def test_options_say_what_they_are():
    options = {option.name: option for option in options_of(Trim)}
    assert list(options) == [field.name for field in dataclasses.fields(Trim)]
    assert options["ratio"].type_name == "number"
    assert math.isclose(options["ratio"].default, 0.3)
    assert options["criterion"].type_name == "one of taylor, magnitude"
    assert options["criterion"].choices == ("taylor", "magnitude")
    assert options["limit"].type_name == "whole number, or none"
    assert options["limit"].default is None
    assert options["exclude"].default == []


def test_a_badly_declared_pass_is_a_bug():
    @dataclasses.dataclass(frozen=True)
    class Bare(Nothing):
        ratio: float = 0.1

    @dataclasses.dataclass(frozen=True)
    class Strange(Nothing):
        ratio: Annotated[complex, "no type for an option"] = 1j

    @dataclasses.dataclass(frozen=True)
    class Needy(Nothing):
        ratio: Annotated[float, "no default"]

    @dataclasses.dataclass(frozen=True)
    class Made(Nothing):
        names: Annotated[tuple[str, ...], "made anew"] = dataclasses.field(default_factory=lambda: ("a",))

    for each, words in ((Bare, "annotated"), (Strange, "no type"), (Needy, "no default")):
        with pytest.raises(ExtensionError, match=words):
            options_of(each)
    assert options_of(Made)[0].default == ["a"]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("trim:exclude=onnx::Conv_580", "exclude", ("onnx::Conv_580",)),
        ("trim:exclude=a:0+b:1:ratio=0.5", "exclude", ("a:0", "b:1")),
        ("trim:exclude=a:whole", "exclude", ("a",)),
        ("trim:note=2:4", "note", "2:4"),
    ],
)
def test_names_and_text_may_hold_colons(text: str, name: str, value: object) -> None:
    """The names that PyTorch gives weights do; whoever copies one out of a report need not escape it."""
    (step,) = parse_passes(text)
    assert getattr(step, name) == value
    assert parse_passes(format_passes([step])) == (step,)


@pytest.mark.parametrize("text", ["trim:ratio=0.5:rato", "trim:exclude=a:rato=0.5", "trim:note"])
def test_a_colon_in_a_name_hides_no_mistake(text: str) -> None:
    with pytest.raises(UsageError):
        parse_passes(text)
