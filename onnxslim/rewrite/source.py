"""Cuts rule files into rules, one for each alternative. No opset is known here."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from onnxslim.errors import RuleError
from onnxslim.model.constants import CONSTANT
from onnxslim.ops.notation import INFIX
from onnxslim.rewrite.expression import write_out
from onnxslim.rewrite.prefilter import Prefilter, read_prefilter
from onnxslim.rewrite.signature import Parameter, read_parameters

BRACE = re.compile(r"[{}]")
COMMENT = re.compile(r"#[^\n]*")
HEAD = re.compile(
    r"\s*(?P<name>[A-Za-z_]\w*)\s*(?:\bfor\s+(?P<words>[A-Z]\w*(?:\s+[A-Z]\w*)*)\s*=\s*(?P<items>[\w\s|]+?)\s*)?"
    r"(?:<(?P<attributes>[^>]*)>)?\s*\((?P<parameters>[^)]*)\)\s*=>\s*\((?P<results>[^)]*)\)\s*match\s*"
)
CALLED = re.compile(r"(?<![.\w])([A-Z]\w*)\s*(?:<[^<>]*>)?\s*\(")


@dataclasses.dataclass(frozen=True)
class RuleText:
    """A rule as it stands in a file: text in pieces, not yet at any opset."""

    name: str
    file: str
    all_text: str = dataclasses.field(repr=False)
    """The text of the file: most of a rule is read from it only where the rule is looked at."""
    begin: int
    """Where in the text the rule begins."""
    attributes: str
    taken: str
    """The parameters, as they are written."""
    given: str
    """The results, as they are written."""
    bodies: Mapping[str, tuple[int, str]]
    """Line and text of each body, braces included."""

    @functools.cached_property
    def line(self) -> int:
        """The line on which it begins."""
        return self.all_text.count("\n", 0, self.begin) + 1

    @property
    def where(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"

    @property
    def comment(self) -> str:
        """The comment above it, in a line."""
        return _comment_above(self.all_text, self.begin)

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters.

        Raises:
            RuleError: They do not read.
        """
        return read_parameters(self.taken, self.where)

    @functools.cached_property
    def results(self) -> tuple[Parameter, ...]:
        """The results.

        Raises:
            RuleError: They do not read.
        """
        return read_parameters(self.given, self.where)

    def written(self, word: str) -> str:
        """Return a body as ONNX text, but for the dots.

        Raises:
            RuleError: It does not read.
        """
        line, text = self.bodies[word]
        return write_out(text, f"{self.file}:{line + 1}")

    @functools.cached_property
    def prefilter(self) -> Prefilter | None:
        """The surroundings that the match needs, read at no opset; None where it does not make the first result.

        Raises:
            RuleError: It does not read.
        """
        first = re.split(r",(?![^\[]*\])", self.given, maxsplit=1)[0].split()
        return read_prefilter(self.written("match"), first[-1]) if first else None

    @functools.cached_property
    def demands(self) -> frozenset[str]:
        """Ops that a graph must have if this is to match: not all, for the text is only glanced at."""
        return _demands(self.bodies["match"][1])


@dataclasses.dataclass(frozen=True)
class RuleTemplate:
    """One rule of a file, which stands for one rule per alternative and per op that a word stands for."""

    head: RuleText
    """The first alternative, with its words."""
    alternatives: tuple[tuple[int, str], ...]
    """Line and text of each alternative of the match."""
    words: tuple[str, ...]
    """Words that stand for ops."""
    choices: tuple[tuple[str, ...], ...]
    """The ops that they stand for, in turn; one empty choice where there are no words."""

    @functools.cached_property
    def demands(self) -> frozenset[str]:
        """Ops that a graph must have if any of the rules is to match."""
        demands = [_demands(text) for _, text in self.alternatives]
        return frozenset.intersection(*demands) - frozenset(self.words)

    @functools.cached_property
    def rules(self) -> tuple[RuleText, ...]:
        """The rules."""
        return tuple(self._rules())

    def _rules(self) -> Iterator[RuleText]:
        for choice in self.choices:
            for number, alternative in enumerate(self.alternatives, 1):
                parts = [self.head.name, *(op.lower() for op in choice[:1]), *([str(number)] if number > 1 else [])]
                bodies = {**self.head.bodies, "match": alternative}
                for word, op in zip(self.words, choice, strict=True):
                    exact = re.compile(rf"\b{word}\b")
                    bodies = {key: (line, exact.sub(op, body)) for key, (line, body) in bodies.items()}
                yield dataclasses.replace(self.head, name="_".join(parts), bodies=bodies)


def _demands(match: str) -> frozenset[str]:
    infix = (infix.op_type for sign, infix in INFIX.items() if f" {sign} " in match)
    return frozenset((*CALLED.findall(match), *infix)) - {CONSTANT[1]}


def split_rules(text: str, file: str) -> Iterator[RuleText]:
    """Cut a text into rules, one for each alternative and each op that a word stands for.

    Raises:
        RuleError: Something in it is no rule.
    """
    for template in split_templates(text, file):
        yield from template.rules


def split_templates(text: str, file: str) -> Iterator[RuleTemplate]:
    """Cut a text at the braces that are not inside braces.

    Raises:
        RuleError: Something in it is no rule.
    """
    blank = COMMENT.sub(lambda match: " " * len(match[0]), text)
    names: set[str] = set()
    current: dict[str, tuple[int, str]] = {}
    alternatives: list[tuple[int, str]] = []
    head: re.Match[str] | None = None
    begin = cursor = 0
    ends = [match.start() for match in re.finditer("\n", text)]

    def line_of(place: int) -> int:
        return bisect.bisect_left(ends, place)

    def where(place: int) -> str:
        return f"{file}:{line_of(place) + 1}"

    def finish() -> Iterator[RuleTemplate]:
        if head is None:
            return
        if "rewrite" not in current:
            raise RuleError(f"the rule {head['name']} has no rewrite", where=where(begin), hint="add rewrite { ... }")
        if head["name"] in names:
            raise RuleError(f"there are two rules named {head['name']}", where=where(begin), hint="rename one of them")
        names.add(head["name"])
        whole = RuleText(
            head["name"],
            file,
            text,
            begin,
            (head["attributes"] or "").strip(),
            head["parameters"],
            head["results"],
            dict(current),
        )
        yield _template(whole, alternatives, (head["words"] or "").split(), head["items"] or "")

    while (opening := blank.find("{", cursor)) >= 0:
        word = blank[cursor:opening].strip()
        closing = _closing(blank, opening)
        if closing is None:
            raise RuleError("a brace is never closed", where=where(opening), hint="add }")
        if word in ("when", "rewrite") and head is not None and word not in current:
            current[word] = (line_of(opening), blank[opening : closing + 1])
        elif word == "or" and list(current) == ["match"]:
            alternatives.append((line_of(opening), blank[opening : closing + 1]))
        else:
            begins = HEAD.fullmatch(blank, cursor, opening)
            place = cursor + len(blank[cursor:opening]) - len(blank[cursor:opening].lstrip())
            if begins is None:
                raise RuleError(
                    f"this begins no rule: {' '.join(word.split())[:60]}",
                    where=where(place),
                    hint="write name <attributes> (parameters) => (results) match { ... } rewrite { ... }",
                )
            yield from finish()
            head, begin = begins, place
            current = {"match": (line_of(opening), blank[opening : closing + 1])}
            alternatives = [current["match"]]
        cursor = closing + 1
    if blank[cursor:].strip():
        place = cursor + len(blank[cursor:]) - len(blank[cursor:].lstrip())
        raise RuleError("this belongs to no rule", where=where(place), hint="is a body missing?")
    yield from finish()


def _template(
    head: RuleText, alternatives: Sequence[tuple[int, str]], words: Sequence[str], items: str
) -> RuleTemplate:
    choices = [tuple(item.split()) for item in items.split("|")] if words else [()]
    for choice in choices:
        if len(choice) != len(words):
            raise RuleError(
                f"{' '.join(choice) or 'nothing'} cannot stand for {' '.join(words)}",
                where=head.where,
                hint="as many ops as words, separated by |",
            )
    return RuleTemplate(head, tuple(alternatives), tuple(words), tuple(choices))


def _closing(text: str, opening: int) -> int | None:
    depth = 0
    for match in BRACE.finditer(text, opening):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.start()
    return None


def _comment_above(text: str, place: int) -> str:
    lines = text[:place].splitlines()
    comment: list[str] = []
    while lines and lines[-1].startswith("#"):
        comment.insert(0, lines.pop().lstrip("# "))
    return " ".join(comment)
